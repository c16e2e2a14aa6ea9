"""Gate values that are DTensors, spread over the entries of a parameter shard by shard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l0func.internal.sharding import (
    Owned,
    ShardLayout,
    as_index,
    is_dtensor,
    layout_of,
    owned_along,
    owned_at,
    shard_dim,
)
from l0func.internal.shards import all_places, home, part, taken, unequal, wrapped
from l0func.internal.untyped import loose
from l0func.spec.rules import Rule, Shape, axes, axis, blocks, element


class Factor(NamedTuple):
    """One binding's gate values, to be spread over a parameter."""

    gate: str
    rule: Rule
    values: Tensor
    multiplies: bool
    earlier: tuple[Rule, ...]
    """Rules by which the same gate is on the parameter already."""

    is_level: bool = False
    """Whether values are levels; then the lowest of several counts, and not their product."""


def spread_shards(path: str, shape: Shape, factors: Sequence[Factor]) -> Tensor:
    """The product of all factors as a DTensor, broadcastable to the parameter.

    It is sharded where a gate vector is. Nothing is sent, but for gates that only own entries in
    another layout than the multiplying ones: they are gathered.

    Args:
        path: The parameter's path, for an error.
        shape: Its shape.
        factors: Its factors, the multiplying ones first; the values of all are DTensors.

    Raises:
        ValueError: Gates are plain tensors beside DTensors, on several meshes, or in layouts that
            do not match.
    """
    mesh = _mesh_of(path, factors)
    placements: list[Any] = [home().Replicate()] * mesh.ndim
    fitting: list[Factor] = []
    for factor in factors:
        wanted = _with_gates(placements, factor, fitting, shape)
        if wanted is None and factor.multiplies:
            raise _elsewhere(path, factor, shape, placements)
        if wanted is None:
            whole = loose(factor.values).redistribute(placements=[home().Replicate()] * mesh.ndim)
            factor = factor._replace(values=whole)
        placements = placements if wanted is None else wanted
        fitting.append(factor)
    layout = ShardLayout(mesh, tuple(placements))
    product: Tensor | None = None
    for factor in fitting:
        own = _own_factor(factor, layout, shape)
        meet = torch.minimum if factor.is_level else torch.mul
        product = own if product is None else meet(product, own)
    assert product is not None
    varied: set[int] = set()
    for factor in fitting:
        varied.update(_gate_dims(factor.rule, shape))
    sizes = [size if dim in varied else 1 for dim, size in enumerate(shape)]
    return wrapped(product, layout, sizes)


def check_holds(path: str, factor: Factor, layout: ShardLayout, shape: Shape) -> None:
    """Refuse a factor that lacks gates on entries of a process; all processes refuse it.

    Args:
        path: The parameter's path, for an error.
        factor: The factor; its values are a DTensor.
        layout: The layout of the parameter.
        shape: The parameter's shape.

    Raises:
        ValueError: A process lacks gates.
    """
    if not _holds_all(factor, layout, shape):
        raise _elsewhere(path, factor, shape, layout.placements)


def _mesh_of(path: str, factors: Sequence[Factor]) -> Any:
    mesh, first = None, ""
    for factor in factors:
        if not is_dtensor(factor.values):
            raise ValueError(
                f"The gates {factor.gate!r} on {path!r} are a plain tensor, and others on it are "
                "DTensors. Lay all out: gates = l0func.place_gates(spec, params, gates)."
            )
        own = layout_of(factor.values, factor.gate).mesh
        if mesh is not None and own != mesh:
            raise ValueError(
                f"The gates {first!r} and {factor.gate!r} on {path!r} are on two meshes, {mesh} "
                f"and {own}. Lay both out on the parameter's: l0func.place_gates."
            )
        mesh, first = own, factor.gate
    return mesh


def _gate_dims(rule: Rule, shape: Shape) -> list[int]:
    """For each gate dimension the parameter's dimension that it varies along."""
    if isinstance(rule, element):
        return list(range(len(shape)))
    if isinstance(rule, axes):
        return sorted(dim % len(shape) for dim in rule.dims)
    dim: int | None = getattr(rule, "dim", None)
    return [] if dim is None else [dim % len(shape)]


def _with_gates(
    placements: Sequence[Any], factor: Factor, earlier: Sequence[Factor], shape: Shape
) -> list[Any] | None:
    """The placements with those of one more gate vector, or None if they contradict."""
    dims = _gate_dims(factor.rule, shape)
    joined = list(placements)
    for m, placement in enumerate(layout_of(factor.values, factor.gate).placements):
        gate_dim = shard_dim(placement)
        if gate_dim is None:
            continue
        if gate_dim >= len(dims):
            return None
        own = _at_dim(placement, dims[gate_dim])
        if shard_dim(joined[m]) is not None and joined[m] != own:
            return None
        joined[m] = own
    layout = ShardLayout(loose(factor.values).device_mesh, tuple(joined))
    # Shards of shards may be other entries than the shards: the earlier gates are looked at again.
    fits = all(_holds_all(one, layout, shape) for one in (*earlier, factor))
    return joined if fits else None


def _at_dim(placement: Any, dim: int) -> Any:
    """A shard's placement along another dimension."""
    pieces = getattr(placement, "split_factor", None)
    if pieces is None:
        return home().Shard(dim)
    return type(placement)(dim, split_factor=pieces)


def _gate_numbers(rule: Rule, shape: Shape) -> Tensor | None:
    """For each index along a rule's dimension its gate, or run of gates, or -1; None if equal."""
    if isinstance(rule, element | axes) or (isinstance(rule, axis) and _is_full(rule, shape)):
        return None
    if isinstance(rule, blocks):
        rule = blocks(rule.dim, rule.size, rule.start, rule.stop)
    return rule.index(shape).reshape(-1)


def _is_full(rule: axis, shape: Shape) -> bool:
    return rule.gates(shape) == (shape[rule.dim],)


def _holds_all(factor: Factor, layout: ShardLayout, shape: Shape) -> bool:
    """Whether every process holds all gates on the entries that the layout gives it."""
    own = layout_of(factor.values, factor.gate)
    if own.is_whole:
        return True
    dims = _gate_dims(factor.rule, shape)
    numbers = _gate_numbers(factor.rule, shape)
    sharers = _sharers(factor.rule)
    for coordinate in all_places(layout):
        for gate_dim, dim in enumerate(dims):
            held = owned_at(own, coordinate, gate_dim, factor.values.shape[gate_dim])
            wanted = owned_at(layout, coordinate, dim, shape[dim])
            if not _has_gates(held, wanted, numbers, sharers):
                return False
    return bool(dims)


def _sharers(rule: Rule) -> int:
    return rule.sharers if isinstance(rule, blocks) else 1


def _has_gates(held: Owned, wanted: Owned, numbers: Tensor | None, sharers: int) -> bool:
    if numbers is None and isinstance(held, range) and isinstance(wanted, range):
        return not wanted or (held.start <= wanted.start and wanted.stop <= held.stop)
    index = as_index(wanted)
    if numbers is not None:
        index = numbers[index]
        index = index[index >= 0]
    runs = as_index(held)
    if sharers > 1:
        if not isinstance(held, range) or len(held) % sharers:
            return False
        if len(held) and held.start % sharers:
            return False
        runs = runs[::sharers] // sharers
    return bool(torch.isin(index, runs).all())


def _own_factor(factor: Factor, layout: ShardLayout, shape: Shape) -> Tensor:
    """A factor on this process's entries, of the parameter's rank."""
    gates = layout_of(factor.values, factor.gate)
    values = part(factor.values, unequal(gates, layout))
    held = [owned_along(gates, dim, size) for dim, size in enumerate(factor.values.shape)]
    own = [owned_along(layout, dim, size) for dim, size in enumerate(shape)]
    return spread_on_own(factor._replace(values=values), held, own, shape)


def spread_on_own(
    factor: Factor, held: Sequence[Owned], own: Sequence[Owned], shape: Shape
) -> Tensor:
    """A factor on some of a parameter's entries, of the parameter's rank; nothing is sent.

    Args:
        factor: The factor; its values are plain, a part of the gate vector.
        held: For each dimension of the gate vector the indices of that part.
        own: For each dimension of the parameter the indices of its entries.
        shape: The parameter's whole shape.
    """
    rule, values = factor.rule, factor.values
    numbers = _gate_numbers(rule, shape)
    sizes = [1] * len(shape)
    for gate_dim, dim in enumerate(_gate_dims(rule, shape)):
        wanted = own[dim]
        sizes[dim] = len(wanted)
        if numbers is None:
            values = taken(values, gate_dim, held[gate_dim], wanted)
        else:
            values, runs = _of_runs(factor._replace(values=values), held[gate_dim])
            values = _by_number(values, runs, numbers[as_index(wanted)])
    spread = values.reshape(sizes)
    for other in factor.earlier:
        repeated = _owned_index(rule, own, shape) == _owned_index(other, own, shape)
        spread = torch.where(repeated.to(spread.device), 1.0, spread)
    return spread


def _of_runs(factor: Factor, held: Owned) -> tuple[Tensor, Tensor]:
    """The values of runs of gates that share slices, and the numbers of the runs."""
    values, runs, sharers = factor.values, as_index(held), _sharers(factor.rule)
    if sharers == 1:
        return values, runs
    shared, runs = values.reshape(-1, sharers), runs[::sharers] // sharers
    if factor.is_level:
        return shared.amax(dim=-1), runs
    return 1 - (1 - shared).prod(dim=-1), runs


def _by_number(values: Tensor, runs: Tensor, numbers: Tensor) -> Tensor:
    """The values of the gates with these numbers; 1 for the number -1."""
    if len(runs) == 0:
        return values.new_ones(len(numbers))
    places = torch.searchsorted(runs, numbers.clamp(min=0)).clamp(max=len(runs) - 1)
    found = values.index_select(0, places.to(values.device))
    return torch.where((numbers >= 0).to(values.device), found, 1.0)


def _owned_index(rule: Rule, own: Sequence[Owned], shape: Shape) -> Tensor:
    index = rule.index(shape)
    for dim, size in enumerate(index.shape):
        if size > 1:
            index = index.index_select(dim, as_index(own[dim]))
    return index


def _elsewhere(path: str, factor: Factor, shape: Shape, placements: Sequence[Any]) -> ValueError:
    own = layout_of(factor.values, factor.gate)
    return ValueError(
        f"The gates {factor.gate!r}, {own}, do not hold what they multiply in {path!r} of shape "
        f"{shape} by {factor.rule}, beside gates placed as {list(placements)}. Lay the gates out "
        "as the slices that they multiply: gates = l0func.place_gates(spec, params, gates)."
    )
