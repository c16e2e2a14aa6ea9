"""Sums over all entries of many tensors: one collective for all that lie on a mesh."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l0func.internal.constants import whole_numbers
from l0func.internal.sharding import ShardLayout, is_dtensor, layout_of, shard_dim
from l0func.internal.shards import all_sum, part
from l0func.internal.untyped import untyped

_COUNTED = 2**23


class OwnSum(NamedTuple):
    """The sum of the entries that this process holds of a tensor."""

    value: Tensor
    """A scalar, or a vector of several sums; float64 for a DTensor."""

    dtype: torch.dtype
    """The dtype of the whole sum."""

    layout: ShardLayout | None
    """The layout of a DTensor."""


def own_sum(values: Tensor, /) -> OwnSum:
    """This process's term of a sum over all entries; nothing is sent."""
    if not is_dtensor(values):
        value = _plain_sum(values)
        return OwnSum(value, value.dtype, None)
    assert not values.is_complex(), "a sum of DTensors is one of real numbers"
    is_exact = not values.is_floating_point()
    local = part(values).sum(dtype=torch.int64 if is_exact else torch.float64)
    # Counts are exact up to 2⁵³: they travel together with other sums.
    dtype = torch.int64 if is_exact else values.dtype
    return OwnSum(local.to(torch.float64), dtype, layout_of(values))


def own_sums_of_levels(levels: Tensor, number: int, weights: Tensor | None = None, /) -> OwnSum:
    """This process's terms of so many sums over all entries; nothing is sent.

    The first sum counts the entries of level 1, and each one farther those of the next level too.

    Args:
        levels: A DTensor of multiples of ``1 / number`` from 0 to 1; with a NaN all sums are NaN.
        number: The number of sums.
        weights: Whole numbers that broadcast to this process's part: what each entry counts.
    """
    local = part(levels)
    rows = (local * number).round().nan_to_num().to(torch.int64).reshape(-1)
    if weights is None:
        counts = torch.bincount(rows, minlength=number + 1)
    else:
        own = weights.expand_as(local).reshape(-1).to(torch.int64)
        counts = own.new_zeros(number + 1).index_add(0, rows, own)
    sums = counts.flip(0).cumsum(0)[:number].to(torch.float64)
    value = torch.where(local.isnan().any(), torch.nan, sums)
    return OwnSum(value, levels.dtype, layout_of(levels))


def _plain_sum(values: Tensor) -> Tensor:
    if values.dtype != torch.float32 or values.numel() <= _COUNTED:
        return values.sum()
    # float32 counts no farther, and open gates are counted: shards add up to the same bits.
    pieces: list[Tensor] = untyped.split(values.reshape(-1), _COUNTED)
    parts = [piece.sum() for piece in pieces]
    return torch.stack(parts).sum(dtype=torch.float64).to(values.dtype)


def full_sums(values: Iterable[Tensor], /) -> list[Tensor]:
    """For each tensor the sum of all its entries: plain scalars, the same in every process.

    For DTensors it is a collective, which every process of their mesh calls with the same tensors
    in the same order: 8 bytes for each tensor, in one message for each dimension of the mesh that
    cuts any of them.
    """
    return added([own_sum(t) for t in values])


def added(terms: Sequence[OwnSum], /, op: str = "sum") -> list[Tensor]:
    """The sums of all processes, or the largest terms for ``"max"``; see :func:`full_sums`."""
    places: dict[Any, list[int]] = {}
    for number, term in enumerate(terms):
        if term.layout is not None:
            places.setdefault(term.layout.mesh, []).append(number)
    sums = [term.value for term in terms]
    for own in places.values():
        together = _added_on_mesh([terms[number] for number in own], op)
        for number, total in zip(own, together.unbind(), strict=True):
            sums[number] = total.to(terms[number].dtype)
    return sums


def _added_on_mesh(terms: Sequence[OwnSum], op: str) -> Tensor:
    layouts = [term.layout for term in terms if term.layout is not None]
    total = torch.stack([term.value for term in terms])
    for m in range(layouts[0].mesh.ndim):
        is_cut = [shard_dim(layout.placements[m]) is not None for layout in layouts]
        if any(is_cut) and layouts[0].mesh.shape[m] > 1:
            own = total
            total = all_sum(own, layouts[0].mesh, m, op)
            if not all(is_cut):
                # What is not cut here is the same in all these processes, and counts once.
                cut = whole_numbers(tuple(map(int, is_cut)), own.device) > 0
                total = torch.where(cut.reshape(-1, *[1] * (own.dim() - 1)), total, own)
    return total


def full_norms(tensors: Iterable[Tensor], order: float, /) -> list[Tensor]:
    """For each tensor the norm of all its entries, float64 for a DTensor.

    It is a collective as :func:`full_sums`.

    Args:
        tensors: Tensors of real or complex numbers.
        order: The order of the norm, at least 1; infinity for the largest absolute value.
    """
    is_largest = order == math.inf
    terms = [_own_norm(t, order, is_largest) for t in tensors]
    norms = added(terms, "max" if is_largest else "sum")
    for i, term in enumerate(terms):
        if term.layout is not None and not is_largest:
            norms[i] = norms[i] ** (1 / order)
    return norms


def _own_norm(tensor: Tensor, order: float, is_largest: bool) -> OwnSum:
    if not is_dtensor(tensor):
        norm = untyped.linalg.vector_norm(tensor, order)
        return OwnSum(norm, norm.dtype, None)
    local = part(tensor)
    # An empty part has no largest entry.
    filled = local if local.numel() else local.new_zeros(1)
    norm = untyped.linalg.vector_norm(filled, order).to(torch.float64)
    return OwnSum(norm if is_largest else norm**order, torch.float64, layout_of(tensor))


def full_min(tensors: Iterable[Tensor], /) -> Tensor:
    """The smallest entry of several tensors, a plain scalar, without a derivative.

    It is a collective as :func:`full_sums`, of 8 bytes.
    """
    plain: list[Tensor] = []
    lowest: dict[Any, Tensor] = {}
    layouts: dict[Any, list[ShardLayout]] = {}
    for t in tensors:
        if not is_dtensor(t):
            plain.append(t.detach().amin())
            continue
        layout, local = layout_of(t), part(t.detach())
        ends = torch.full((1,), torch.inf, dtype=t.dtype, device=local.device)
        own = torch.cat((local.reshape(-1), ends)).amin().to(torch.float64)
        lowest[layout.mesh] = torch.minimum(own, lowest.get(layout.mesh, own))
        layouts.setdefault(layout.mesh, []).append(layout)
    for mesh, own in lowest.items():
        for m in range(mesh.ndim):
            is_cut = [shard_dim(layout.placements[m]) is not None for layout in layouts[mesh]]
            if any(is_cut) and mesh.shape[m] > 1:
                own = -all_sum(-own, mesh, m, "max")
        plain.append(own)
    return torch.stack([t.to(torch.float64) for t in plain]).amin()
