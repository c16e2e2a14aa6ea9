"""The layout of gates, from the layouts of the parameters that they multiply."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from l0func.internal.torch_version import distributed_tensor
from l0func.internal.untyped import loose
from l0func.spec.plan import GateSpec, GateVector
from l0func.spec.rules import Rule, Shape, axes, axis, blocks, element

Layout = tuple[Any, ...]
"""One placement for each dimension of a mesh."""


def layout_of_gates(gate: GateVector, spec: GateSpec, path: str, param: Tensor) -> Layout:
    """The placements that serve a gate vector on one DTensor.

    Args:
        gate: The gate vector.
        spec: The gate spec.
        path: The parameter's path.
        param: The parameter, a DTensor.
    """
    plan = next(p for p in spec.parameters if p.path == path)
    own = [b for b in plan.bindings if b.multiplies and b.gate == gate.name]
    return common_layout([_by_rule(binding.rule, gate, param) for binding in own])


def common_layout(layouts: Sequence[Layout]) -> Layout:
    """One layout that serves all: shards where all agree, copies elsewhere."""
    first = layouts[0]
    if all(layout == first for layout in layouts):
        return first
    replicated = distributed_tensor().Replicate()
    # Shards of shards are of use only together with the first ones.
    if any(_shards_twice(layout) for layout in layouts):
        return (replicated,) * len(first)
    agreed: list[Any] = []
    for placements in zip(*layouts, strict=True):
        same = all(placement == placements[0] for placement in placements)
        agreed.append(placements[0] if same else replicated)
    return tuple(agreed)


def _shards_twice(layout: Layout) -> bool:
    dims = [placement.dim for placement in layout if not placement.is_replicate()]
    return len(dims) != len(set(dims)) or any(hasattr(p, "split_factor") for p in layout)


def _by_rule(rule: Rule, gate: GateVector, param: Tensor) -> Layout:
    dims = _gated_dims(rule, tuple(param.shape))
    placements: Layout = tuple(loose(param).placements)
    if isinstance(rule, blocks) and not _has_whole_runs(gate.size, dims, param):
        dims = ()
    return tuple([_along_gates(placement, dims) for placement in placements])


def _gated_dims(rule: Rule, shape: Shape) -> tuple[int, ...]:
    """The tensor's dimensions that are the gates' own dimensions, in order.

    A rule on a part of a dimension, on tiles of it or on the whole has none.
    """
    rank = len(shape)
    if isinstance(rule, element):
        return tuple(range(rank))
    if isinstance(rule, axes):
        return tuple(sorted(dim % rank for dim in rule.dims))
    if not isinstance(rule, axis | blocks):
        return ()
    dim = rule.dim % rank
    is_whole = rule.start == 0 and rule.stop in (None, shape[dim])
    return (dim,) if is_whole else ()


def _has_whole_runs(gates: int, dims: tuple[int, ...], param: Tensor) -> bool:
    """Whether every process holds the same number of whole runs."""
    own: Any = param
    sizes: list[int] = []
    for size, placement in zip(own.device_mesh.shape, own.placements, strict=True):
        if hasattr(placement, "split_factor"):
            return False
        if placement.is_shard() and placement.dim in dims:
            sizes.append(size)
    return gates % math.prod(sizes) == 0


def _along_gates(placement: Any, dims: tuple[int, ...]) -> Any:
    """A parameter's placement as its gates have it."""
    if placement.is_replicate() or placement.dim not in dims:
        return distributed_tensor().Replicate()
    dim = dims.index(placement.dim)
    if hasattr(placement, "split_factor"):
        return type(placement)(dim, split_factor=placement.split_factor)
    return type(placement)(dim)
