"""Learned gates and the masks that they give: drawn, averaged, or fixed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from l0func import random, tree
from l0func.spec import Gate, GateSpec, check_spec
from l0func.transforms import values
from l0func.tree import Tree

Gates = dict[str, Tensor]
Masks = dict[str, Tensor]
Estimator = Literal["louizos", "median", "mean", "count"]
Initialiser = Callable[[Tensor, tuple[int, ...]], Tensor]

ESTIMATORS: tuple[Estimator, ...] = ("louizos", "median", "mean", "count")


def init_gates(
    key: Tensor,
    spec: GateSpec,
    droprate: float | Initialiser | Mapping[str, float | Initialiser] = 0.2,
    *,
    noise: float = 0.01,
    meaning: Literal["closed", "below_half"] = "closed",
    estimator: Estimator = "louizos",
) -> Gates:
    """Gate locations to start from.

    A gate that starts at E[z] < 1 shrinks the weights behind it: with ``droprate`` .2, .3 and .5 hard concrete gates have
    E[z] = .454, .341 and .194. For pretrained weights use a small droprate, or :func:`compensate`.

    Args:
        key: A key, shape ``(2,)``.
        spec: The plan.
        droprate: The probability that a gate starts closed, in (0, 1); or a callable of ``(key, shape)`` that gives
            locations; or either of these for each pattern over gate names.
        noise: Standard deviation of normal noise on the locations, which breaks ties.
        meaning: ``"closed"``: droprate is P(z = 0). ``"below_half"``: it is P(z < 1/2), the usual recipe
            ``logit(1 - droprate)`` of hard concrete gates, whose P(z = 0) is .048 for .2 and .168 for .5.
        estimator: The test-time gates that you will use: a droprate at which they all start closed is warned of.

    Returns:
        ``{gate name: log_alpha}``.

    Raises:
        TypeError: ``key`` is not a key.
        ValueError: A droprate is outside (0, 1); a pattern matches no gate, or a gate no pattern; a callable gives another
            shape; the noise is negative.
    """
    check_single_key(key)
    check_estimator(estimator)
    if noise < 0:
        raise ValueError(f"The noise on gate locations is a standard deviation, at least 0; got {noise}.")
    if meaning not in ("closed", "below_half"):
        raise ValueError(f"A droprate means 'closed', P(z = 0), or 'below_half', P(z < 1/2); got {meaning!r}.")
    starts = tree.per_path(droprate, [gate.name for gate in spec.gates], "a droprate", "gate")
    at = 0.0 if meaning == "closed" else 0.5
    gates: Gates = {}
    for gate in spec.gates:
        start, own = starts[gate.name], random.fold_in(key, gate.stream)
        if callable(start):
            gates[gate.name] = _initialised(start, own, gate)
            continue
        location = gate.distribution.init(start, at=at)
        _warn_if_closed(gate, location, start, estimator)
        gates[gate.name] = (location + noise * random.normal(own, gate.shape)).to(gate.dtype)
    return gates


def _initialised(start: Initialiser, key: Tensor, gate: Gate) -> Tensor:
    log_alpha = torch.as_tensor(start(key, gate.shape))
    if tuple(log_alpha.shape) != gate.shape:
        raise ValueError(f"The gates {gate.name!r} have shape {gate.shape}; their initialiser gave {tuple(log_alpha.shape)}.")
    return log_alpha.to(gate.dtype)


def _warn_if_closed(gate: Gate, location: float, droprate: float, estimator: Estimator) -> None:
    if estimator == "count":
        return
    if gate.distribution.deterministic(torch.tensor(location, dtype=torch.float64), estimator).item() == 0.0:
        warnings.warn(
            f"With droprate {droprate} the test-time gates of {gate.name!r} all start closed under the {estimator!r} "
            "estimator: the network outputs what it would without them. Choose a smaller droprate or another estimator.",
            stacklevel=3,
        )


def sample_masks(key: Tensor, gates: Tree, spec: GateSpec) -> Masks:
    """One draw of every gate, laid out as masks.

    Args:
        key: A key, shape ``(2,)``; for a batch of keys use ``torch.vmap`` or :func:`l0func.per_example`.
        gates: ``{gate name: log_alpha}``.
        spec: The plan.

    Returns:
        ``{parameter path: mask in [0, 1]}`` for the parameters that a gate multiplies: the parameter's rank and dtype,
        broadcastable to it. A gate's draw depends on the key and its name alone.

    Raises:
        TypeError: ``key`` is not a key.
        ValueError: Gates do not fit the spec.
    """
    check_single_key(key)
    named = check_gates(gates, spec)
    return laid_out(sample_gates(key, named, spec), spec)


def sample_gates(key: Tensor, gates: Gates, spec: GateSpec) -> Gates:
    """One draw of every gate, ``{gate name: z}``, in one call of the generator."""
    return drawn(gate_keys(key, gates, spec.gates), gates, spec.gates)


def gate_keys(key: Tensor, gates: Gates, wanted: Sequence[Gate]) -> Tensor:
    """The own keys of some gates, shape ``(G, 2)``."""
    # Keyed by name, not by position: gating one more layer leaves every other mask unchanged.
    device = gates[wanted[0].name].device if wanted else key.device
    streams = torch.tensor([gate.stream for gate in wanted], dtype=torch.int64, device=device)
    return random.fold_in(key.to(device).unsqueeze(-2), streams)


def drawn(keys: Tensor, gates: Gates, wanted: Sequence[Gate]) -> Gates:
    """One draw of some gates from their own keys, ``{gate name: z}``, in one call of the generator."""
    if not wanted:
        return {}
    draws = random.uniforms(keys, [gate.shape for gate in wanted])
    return {g.name: g.distribution.quantile(u, gates[g.name]) for g, u in zip(wanted, draws, strict=True)}


def mean_masks(gates: Tree, spec: GateSpec) -> Masks:
    """The expectation of :func:`sample_masks` over keys, exactly.

    Args:
        gates: ``{gate name: log_alpha}``.
        spec: The plan.

    Returns:
        ``{parameter path: mask in [0, 1]}``.

    Raises:
        ValueError: Gates do not fit the spec.
    """
    return deterministic_masks(gates, spec, "mean")


def deterministic_masks(gates: Tree, spec: GateSpec, estimator: Estimator = "louizos") -> Masks:
    """Masks for test time.

    Args:
        gates: ``{gate name: log_alpha}``.
        spec: The plan.
        estimator: ``"louizos"``, the gate of the distribution's paper; ``"median"``, the draw at u = 1/2; ``"mean"``, the
            expectation, which never closes; ``"count"``, the expectation with the round(n - E[L0]) lowest gates of every
            vector of n closed, so that as many stay open as are expected to.

    Returns:
        ``{parameter path: mask in [0, 1]}``.

    Raises:
        ValueError: Gates do not fit the spec, or the estimator is unknown.
    """
    named = check_gates(gates, spec)
    return laid_out(deterministic_gates(named, spec, estimator), spec)


def deterministic_gates(gates: Gates, spec: GateSpec, estimator: Estimator) -> Gates:
    """Test-time gate values, ``{gate name: z}``."""
    check_estimator(estimator)
    return {gate.name: _deterministic(gate, gates[gate.name], estimator) for gate in spec.gates}


def _deterministic(gate: Gate, log_alpha: Tensor, estimator: Estimator) -> Tensor:
    if estimator != "count":
        return gate.distribution.deterministic(log_alpha, estimator)
    flat = log_alpha.reshape(-1)
    closed = (1 - gate.distribution.prob_nonzero(flat)).sum().round()
    rank = flat.sort(stable=True).indices.argsort()
    soft = gate.distribution.mean(flat)
    return torch.where(rank >= closed, soft, 0.0).reshape(log_alpha.shape)


def laid_out(gate_values: Mapping[str, Tensor], spec: GateSpec) -> Masks:
    """The masks that some values of the gates give."""
    return {p.path: p.lay_out(gate_values, owned=False).to(p.dtype) for p in spec.parameters if p.multiplied}


def apply_masks(params: Tree, masks: Mapping[str, Tensor]) -> Tree:
    """Parameters times their masks.

    Args:
        params: Parameters, flat or nested.
        masks: ``{parameter path: mask}``, broadcastable to the parameter and cast to its dtype; parameters without one stay
            as they are.

    Returns:
        A new pytree of the structure of ``params``.

    Raises:
        ValueError: A mask is for an unknown parameter, does not broadcast to its parameter, or is on another device.
    """
    tensors = tree.leaves(params)
    for path, mask in tree.leaves(masks, "masks").items():
        if path not in tensors:
            raise ValueError(f"There is a mask for {path!r}, which is no parameter{tree.closest(path, tensors)}.")
        shape = tuple(tensors[path].shape)
        if mask.dim() != len(shape) or not all(m == 1 or m == n for m, n in zip(mask.shape, shape, strict=True)):
            raise ValueError(f"The mask of {path!r} has shape {tuple(mask.shape)}, which does not fit {shape}.")
        check_device(path, tensors[path], mask)
    return tree.rebuild(params, {path: p * masks[path].to(p.dtype) if path in masks else p for path, p in tensors.items()})


def compensate(params: Tree, gates: Tree, spec: GateSpec) -> Tree:
    """Parameters divided by their expected masks, so that the gated network starts, on average, where it was.

    Args:
        params: Pretrained parameters, flat or nested.
        gates: ``{gate name: log_alpha}``, as they start.
        spec: The plan.

    Returns:
        A new pytree of the structure of ``params``.

    Raises:
        ValueError: Gates do not fit the spec.
    """
    return apply_masks(params, {path: 1 / mask for path, mask in mean_masks(gates, spec).items()})


def check_gates(gates: Tree, spec: GateSpec) -> Gates:
    """The gates as a flat dict, if names and shapes are those of the spec.

    Raises:
        ValueError: A name is missing or unknown, a shape differs, or gates are not of a floating type.
    """
    check_spec(spec)
    named = tree.leaves(gates, "gates")
    tree.check_names(named, [gate.name for gate in spec.gates], "The spec's gates")
    for gate in spec.gates:
        log_alpha = named[gate.name]
        if tuple(log_alpha.shape) != gate.shape:
            raise ValueError(
                f"The spec has gates of shape {gate.shape} for {gate.name!r}; got {tuple(log_alpha.shape)}. Gates and spec "
                "belong to different architectures: build both from the same params, or load the spec that was saved."
            )
        if not log_alpha.is_floating_point():
            raise ValueError(f"Gate locations are floating-point numbers; {gate.name!r} is {log_alpha.dtype}.")
    return named


def check_device(path: str, param: Tensor, gates: Tensor) -> None:
    """Refuse gates, or a mask of them, on another device than their parameter.

    Raises:
        ValueError: They are.
    """
    if param.device != gates.device:
        raise ValueError(
            f"The parameter {path!r} is on {param.device} and its gates are on {gates.device}. Move both to one device, as in "
            "{name: log_alpha.to(device) for name, log_alpha in gates.items()}."
        )


def check_values(gates: Gates) -> None:
    """Refuse a NaN among gate locations; for functions that no transform maps.

    Raises:
        ValueError: A location is NaN.
    """
    for name, log_alpha in gates.items():
        bad = values(log_alpha.isnan().sum())
        if bad:
            raise ValueError(
                f"{bad} of {log_alpha.numel()} gate locations of {name!r} are NaN. Training diverged: lower the learning "
                "rate of the gates, or go back to an earlier checkpoint."
            )


def check_estimator(estimator: str) -> None:
    """Refuse an unknown estimator.

    Raises:
        ValueError: It is none of the four.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"The estimators are {ESTIMATORS}; got {estimator!r}{tree.closest(estimator, ESTIMATORS)}.")


def check_single_key(key: Tensor) -> None:
    """Refuse what is not one key.

    Raises:
        TypeError: Not an int64 tensor.
        ValueError: Not of shape (2,).
    """
    random.check_key(key)
    if key.dim() != 1:
        raise ValueError(
            f"One key has shape (2,); got {tuple(key.shape)}. For a batch of keys use torch.vmap, or l0func.per_example "
            "for one mask a row."
        )
