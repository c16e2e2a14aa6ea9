"""Learned gates and the masks that they give: drawn, averaged, or fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
from l0func.internal.tree import Tree
from l0func.spec.plan import GateSpec, GateVector


def sample_masks(key: Tensor, gates: Tree, spec: GateSpec) -> Masks:
    """One draw of every gate, laid out as masks.

    Args:
        key: A key, shape ``(2,)``; for a batch of keys use ``torch.vmap`` or
            :func:`l0func.per_example`.
        gates: ``{gate name: log_alpha}``.
        spec: The plan.

    Returns:
        ``{parameter path: mask in [0, 1]}`` for the parameters that a gate multiplies: the
        parameter's rank and dtype, broadcastable to it. A gate's draw depends on the key and its
        name alone.

    Raises:
        TypeError: ``key`` is not a key.
        ValueError: Gates do not fit the spec.
    """
    check_single_key(key)
    named = check_gates(gates, spec)
    return masks_of(sample_gates(key, named, spec), spec)


def sample_gates(key: Tensor, gates: Gates, spec: GateSpec) -> Gates:
    """One draw of every gate, ``{gate name: z}``, in one call of the generator."""
    return draw_gates(gate_keys(key, gates, spec.gates), gates, spec.gates)


def gate_keys(key: Tensor, gates: Gates, wanted: Sequence[GateVector]) -> Tensor:
    """The own keys of some gates, shape ``(G, 2)``."""
    # Keyed by name, not by position: gating one more layer leaves every other mask unchanged.
    device = gates[wanted[0].name].device if wanted else key.device
    streams = torch.tensor([gate.stream for gate in wanted], dtype=torch.int64, device=device)
    return random.fold_in(key.to(device).unsqueeze(-2), streams)


def draw_gates(keys: Tensor, gates: Gates, wanted: Sequence[GateVector]) -> Gates:
    """One draw of some gates from their own keys, ``{gate name: z}``, in one call of the
    generator.
    """
    if not wanted:
        return {}
    draws = random.uniforms(keys, [gate.shape for gate in wanted])
    return {
        g.name: g.distribution.quantile(u, gates[g.name])
        for g, u in zip(wanted, draws, strict=True)
    }


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


def deterministic_masks(
    gates: Tree, spec: GateSpec, estimator: MaskEstimator = "louizos"
) -> Masks:
    """Masks for test time.

    Args:
        gates: ``{gate name: log_alpha}``.
        spec: The plan.
        estimator: ``"louizos"``, the gate of the distribution's paper; ``"median"``, the draw at u
            = 1/2; ``"mean"``, the expectation, which never closes; ``"count"``, the expectation
            with the round(n - E[L0]) lowest gates of every vector of n closed, so that as many
            stay open as are expected to.

    Returns:
        ``{parameter path: mask in [0, 1]}``.

    Raises:
        ValueError: Gates do not fit the spec, or the estimator is unknown.
    """
    named = check_gates(gates, spec)
    return masks_of(deterministic_gates(named, spec, estimator), spec)


def deterministic_gates(gates: Gates, spec: GateSpec, estimator: MaskEstimator) -> Gates:
    """Test-time gate values, ``{gate name: z}``."""
    check_estimator(estimator)
    return {gate.name: _deterministic(gate, gates[gate.name], estimator) for gate in spec.gates}


def _deterministic(gate: GateVector, log_alpha: Tensor, estimator: MaskEstimator) -> Tensor:
    if estimator != "count":
        return gate.distribution.deterministic(log_alpha, estimator)
    flat = log_alpha.reshape(-1)
    closed = (1 - gate.distribution.prob_nonzero(flat)).sum().round()
    rank = flat.sort(stable=True).indices.argsort()
    soft = gate.distribution.mean(flat)
    return torch.where(rank >= closed, soft, 0.0).reshape(log_alpha.shape)


def masks_of(gate_values: Mapping[str, Tensor], spec: GateSpec) -> Masks:
    """The masks that some values of the gates give."""
    return {
        p.path: p.spread(gate_values, owned=False).to(p.dtype)
        for p in spec.parameters
        if p.multiplied
    }


def apply_masks(params: Tree, masks: Mapping[str, Tensor]) -> Tree:
    """Parameters times their masks.

    Args:
        params: Parameters, flat or nested.
        masks: ``{parameter path: mask}``, broadcastable to the parameter and cast to its dtype;
            parameters without one stay as they are.

    Returns:
        A new pytree of the structure of ``params``.

    Raises:
        ValueError: A mask is for an unknown parameter, does not broadcast to its parameter, or is
            on another device.
    """
    tensors = tree.leaves(params)
    for path, mask in tree.leaves(masks, "masks").items():
        if path not in tensors:
            raise ValueError(
                f"There is a mask for {path!r}, which is no "
                f"parameter{names.closest(path, tensors)}."
            )
        shape = tuple(tensors[path].shape)
        if mask.dim() != len(shape) or not all(
            m == 1 or m == n for m, n in zip(mask.shape, shape, strict=True)
        ):
            raise ValueError(
                f"The mask of {path!r} has shape {tuple(mask.shape)}, which does not fit {shape}."
            )
        check_device(path, tensors[path], mask)
    return tree.rebuild(
        params,
        {path: p * masks[path].to(p.dtype) if path in masks else p for path, p in tensors.items()},
    )
