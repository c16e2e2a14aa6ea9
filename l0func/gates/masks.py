"""From gate locations to gate values, and from gate values to masks on the parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from l0func import random
from l0func.gates.checks import (
    Gates,
    MaskEstimator,
    Masks,
    check_device,
    check_estimator,
    check_gates,
    check_single_key,
)
from l0func.internal import names, tree
from l0func.internal.below_vmap import below_vmap
from l0func.internal.constants import whole_numbers
from l0func.internal.kinds import real_dtype
from l0func.internal.sharding import is_dtensor
from l0func.internal.shards import product_with
from l0func.internal.tree import Tree, TreeT
from l0func.kernels.choice import kernel_in_use
from l0func.spec.plan import GateSpec, GateVector


def sample_masks(key: Tensor, gates: Tree, spec: GateSpec) -> Masks:
    """Draw every gate once, and spread the values as masks.

    Args:
        key: A key, shape ``(2,)``; for a batch of keys use ``torch.vmap`` or
            :func:`l0func.per_example`.
        gates: ``{gate name: log_alpha}``.
        spec: The gate spec.

    Returns:
        ``{parameter path: mask in [0, 1]}`` for the parameters that a gate multiplies. A mask has
        the parameter's rank and dtype (for a complex one, that of its real part), and is
        broadcastable to it. A gate's draw depends on the
        key and its name alone.

    Raises:
        TypeError: ``key`` is not a key.
        ValueError: Gates do not fit the spec.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> params = {"w": torch.ones(2, 3)}
        >>> spec = l0.gate_spec(params, {"w": l0.axis(0)})
        >>> gates = {"w": torch.tensor([-9.0, 9.0])}
        >>> l0.sample_masks(l0.random.key(0), gates, spec)["w"]
        tensor([[0.],
                [1.]])
    """
    check_single_key(key)
    named = check_gates(gates, spec)
    return masks_of(sample_gates(key, named, spec), spec)


def sample_gates(key: Tensor, gates: Gates, spec: GateSpec) -> Gates:
    """Draw every gate once: ``{gate name: z}``, in one call to the generator."""
    return draw_gates(gate_keys(key, gates, spec.gates), gates, spec.gates)


def gate_keys(key: Tensor, gates: Gates, wanted: Sequence[GateVector]) -> Tensor:
    """A key for each wanted gate vector, shape ``(G, 2)``."""
    # Keyed by name, not by position: gating one more layer leaves every other mask unchanged.
    device = gates[wanted[0].name].device if wanted else key.device
    streams = tuple([gate.stream for gate in wanted])
    return random.fold_in(key.to(device).unsqueeze(-2), whole_numbers(streams, device))


def draw_gates(keys: Tensor, gates: Gates, wanted: Sequence[GateVector]) -> Gates:
    """Draw some gates once.

    Args:
        keys: A key for each wanted gate vector, shape ``(*batch, G, 2)``.
        gates: ``{gate name: log_alpha}``.
        wanted: The G gate vectors.

    Returns:
        ``{gate name: z}`` for the wanted gates.
    """
    if not wanted:
        return {}
    if kernel_in_use(keys.device) == "torch" and not any(map(is_dtensor, gates.values())):
        # One call to the generator: to trace or to start it costs more than to run it.
        locations = [gates[gate.name] for gate in wanted]
        z = below_vmap(partial(_drawn_together, wanted), keys, *locations)
        return {gate.name: values for gate, values in zip(wanted, z, strict=True)}
    drawn: Gates = {}
    for number, gate in enumerate(wanted):
        drawn[gate.name] = gate.distribution.draws(keys[..., number, :], gates[gate.name])
    return drawn


def _drawn_together(
    wanted: Sequence[GateVector], keys: Tensor, *locations: Tensor
) -> list[Tensor]:
    draws = random.uniforms(keys, [gate.shape for gate in wanted])
    own = zip(wanted, draws, locations, strict=True)
    return [gate.distribution.quantile(u, log_alpha) for gate, u, log_alpha in own]


def mean_masks(gates: Tree, spec: GateSpec) -> Masks:
    """The expectation of :func:`sample_masks` over keys, exactly.

    Args:
        gates: ``{gate name: log_alpha}``.
        spec: The gate spec.

    Returns:
        ``{parameter path: mask in [0, 1]}``.

    Raises:
        ValueError: Gates do not fit the spec.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> params = {"w": torch.ones(2, 3)}
        >>> spec = l0.gate_spec(params, {"w": l0.axis(0)})
        >>> gates = {"w": torch.tensor([-3.0, 0.0])}
        >>> l0.mean_masks(gates, spec)["w"]
        tensor([[0.0604],
                [0.5000]])
    """
    return deterministic_masks(gates, spec, "mean")


def deterministic_masks(
    gates: Tree, spec: GateSpec, estimator: MaskEstimator = "louizos"
) -> Masks:
    """Masks for test time.

    Args:
        gates: ``{gate name: log_alpha}``.
        spec: The gate spec.
        estimator: ``"louizos"``, the gate in the distribution's paper; ``"median"``, the draw at u
            = 1/2; ``"mean"``, the expectation, never exactly 0; ``"count"``, the expectation with
            the round(n - E[L0]) lowest gates in every vector of n closed, so that as many stay
            open as are expected to.

    Returns:
        ``{parameter path: mask in [0, 1]}``.

    Raises:
        ValueError: Gates do not fit the spec, or the estimator is unknown.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> params = {"w": torch.ones(2, 3)}
        >>> spec = l0.gate_spec(params, {"w": l0.axis(0)})
        >>> gates = {"w": torch.tensor([-3.0, 3.0])}
        >>> l0.deterministic_masks(gates, spec)["w"]
        tensor([[0.],
                [1.]])
        >>> l0.deterministic_masks(gates, spec, "median")["w"]
        tensor([[0.],
                [1.]])
    """
    named = check_gates(gates, spec)
    return masks_of(deterministic_gates(named, spec, estimator), spec)


def deterministic_gates(gates: Gates, spec: GateSpec, estimator: MaskEstimator) -> Gates:
    """Test-time gate values, ``{gate name: z}``."""
    check_estimator(estimator)
    z: Gates = {}
    for gate in spec.gates:
        z[gate.name] = deterministic_gate(gate, gates[gate.name], estimator)
    return z


def deterministic_gate(gate: GateVector, log_alpha: Tensor, estimator: MaskEstimator) -> Tensor:
    """Test-time values of one gate vector."""
    if estimator == "count":
        return _by_count(gate, log_alpha)
    return gate.distribution.deterministic(log_alpha, estimator)


def _by_count(gate: GateVector, log_alpha: Tensor) -> Tensor:
    """The expectation, with as many of the lowest gates closed as are expected to be."""
    check_order({gate.name: log_alpha}, "The estimator 'count' orders the gates of a vector, and")
    flat = log_alpha.reshape(-1)
    prob_zero = 1 - gate.distribution.prob_nonzero(flat)
    closed = prob_zero.sum().round()
    rank = flat.sort(stable=True).indices.argsort()
    soft = gate.distribution.mean(flat)
    return torch.where(rank >= closed, soft, 0.0).reshape(log_alpha.shape)


def check_order(gates: Gates, reason: str) -> None:
    """Refuse DTensors where all gates of a vector are ordered.

    Raises:
        ValueError: A gate vector is a DTensor.
    """
    for name, log_alpha in gates.items():
        if is_dtensor(log_alpha):
            raise ValueError(
                f"{reason} {name!r} is a DTensor, of which each process holds a part. Gather the "
                "gates first, l0func.gather(gates), or use the estimator 'louizos' or 'median'."
            )


def masks_of(gate_values: Mapping[str, Tensor], spec: GateSpec) -> Masks:
    """The masks of all multiplied parameters, from one value for each gate."""
    masks: Masks = {}
    for p in spec.parameters:
        if p.multiplied:
            masks[p.path] = p.spread(gate_values, owned=False).to(real_dtype(p.dtype))
    return masks


def apply_masks(params: TreeT, masks: Mapping[str, Tensor]) -> TreeT:
    """Parameters times their masks.

    Args:
        params: Parameters, flat or nested.
        masks: ``{parameter path: mask}``, broadcastable to the parameter and cast to its dtype,
            or to that of its real part; parameters without one stay as they are.

    Returns:
        A new pytree with the structure of ``params``.

    Raises:
        ValueError: A mask is for an unknown parameter, does not broadcast to its parameter, or is
            on another device.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> masks = {"w": torch.tensor([0.0, 0.5, 1.0])}
        >>> l0.apply_masks({"w": torch.tensor([1.0, 2.0, 3.0])}, masks)
        {'w': tensor([0., 1., 3.])}
    """
    tensors = tree.leaves(params)
    named = tree.leaves(masks, "masks")
    for path, mask in named.items():
        if path not in tensors:
            near = names.closest(path, tensors)
            raise ValueError(f"There is a mask for {path!r}, which is no parameter{near}.")
        _check_fits(path, tensors[path], mask)
        check_device(path, tensors[path], mask)
    masked = dict(tensors)
    for path, mask in named.items():
        param = tensors[path]
        masked[path] = product_with(param, mask.to(real_dtype(param.dtype)), path)
    return tree.rebuild(params, masked)


def _check_fits(path: str, param: Tensor, mask: Tensor) -> None:
    """Refuse a mask of another rank, or with a size other than 1 or the parameter's."""
    wanted, got = tuple(param.shape), tuple(mask.shape)
    # Not ``m in (1, n)``: a compiler compares open sizes in a tuple by identity.
    same_rank = len(got) == len(wanted)
    if not same_rank or not all(m == 1 or m == n for m, n in zip(got, wanted, strict=True)):
        raise ValueError(
            f"The mask of {path!r} has shape {got}, which does not fit {wanted}. "
            "Masks and params belong to different architectures: make the masks from a spec of "
            "these params."
        )
