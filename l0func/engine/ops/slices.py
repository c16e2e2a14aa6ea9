"""Slices from a gated parameter: still gated where a slice of the gates fits them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from l0func.engine.entry_gates import EntryGates
from l0func.engine.ops.fits import has_dims
from l0func.engine.ops.table import HandlerTable
from l0func.engine.parameter import GatedParameter
from l0func.internal.untyped import TENSOR

HANDLERS = HandlerTable()


@HANDLERS.runs_for(torch.narrow, TENSOR.narrow)
def narrow(input: GatedParameter, dim: int, start: int, length: int) -> Any:
    """``torch.narrow``; entry gates can be cut along dimension 0 only."""
    if not has_dims(input, dim):
        return NotImplemented
    gates = input.entry_gates
    dim = dim % input.dim()
    if isinstance(start, Tensor) or (gates is not None and (dim > 0 or gates.turned)):
        return NotImplemented
    weight = input.weight.narrow(dim, start, length)
    # A negative start counts from the end; entry gates need the place itself.
    start = start + input.shape[dim] if start < 0 else start
    scales = list(input.scales)
    scale = scales[dim]
    scales[dim] = None if scale is None else scale.narrow(0, start, length)
    gates = None if gates is None else gates.narrow(start, length)
    return input.like(weight, tuple(scales), gates)


@HANDLERS.runs_for(torch.chunk, TENSOR.chunk)
def chunk(input: GatedParameter, chunks: int, dim: int = 0) -> Any:
    """``torch.chunk``."""
    if not has_dims(input, dim) or chunks < 1:
        return NotImplemented
    length = -(-input.shape[dim] // chunks)
    return split_sections(input, length, dim)


@HANDLERS.runs_for(torch.split, TENSOR.split)
def split_sections(tensor: GatedParameter, split_size_or_sections: Any, dim: int = 0) -> Any:
    """``torch.split``."""
    sections = split_size_or_sections
    if not has_dims(tensor, dim) or not _are_sections(sections, tensor.shape[dim]):
        return NotImplemented
    slices: list[Any] = []
    start = 0
    for length in _lengths(sections, tensor.shape[dim]):
        piece = narrow(tensor, dim, start, length)
        if piece is NotImplemented:
            return NotImplemented
        slices.append(piece)
        start += length
    return tuple(slices)


def _are_sections(size_or_lengths: Any, total: int) -> bool:
    if isinstance(size_or_lengths, int):
        # Torch cuts an empty dimension into empty sections.
        return size_or_lengths > 0 and total > 0
    lengths: list[Any] = list(size_or_lengths)
    if not all(isinstance(length, int) and length >= 0 for length in lengths):
        return False
    return sum(lengths) == total


def _lengths(size_or_lengths: int | Sequence[int], total: int) -> list[int]:
    """All sections' lengths; under one size for all, the last section may be shorter."""
    if not isinstance(size_or_lengths, int):
        return list(size_or_lengths)
    size = size_or_lengths
    return [min(size, total - start) for start in range(0, total, size)]


@HANDLERS.runs_for(TENSOR.__getitem__)
def getitem(input: Any, index: Any) -> Any:
    """``input[index]`` for an integer or a slice along dimension 0."""
    if not isinstance(input, GatedParameter) or isinstance(index, bool):
        return NotImplemented
    if isinstance(index, int):
        return select(input, 0, index)
    if not isinstance(index, slice):
        return NotImplemented
    rows = range(input.shape[0])[index]
    start, stop, step = rows.start, rows.stop, rows.step
    if step == 1:
        return narrow(input, 0, start, max(stop - start, 0))
    if input.entry_gates is not None:
        return NotImplemented
    first, *others = input.scales
    scales = (None if first is None else first[index], *others)
    return input.like(input.weight[index], scales, None)


@HANDLERS.runs_for(torch.select, TENSOR.select)
def select(input: GatedParameter, dim: int, index: int) -> Any:
    """``torch.select`` along dimension 0, where that leaves a matrix."""
    if not has_dims(input, dim):
        return NotImplemented
    rank, size = input.dim(), input.shape[0]
    if isinstance(index, Tensor) or dim % rank != 0 or rank < 3 or not -size <= index < size:
        return NotImplemented
    gates = input.entry_gates
    if gates is not None and gates.turned:
        return NotImplemented
    index = index % size
    scales = _selected_scales(input, index)
    gates = None if gates is None else _selected_gates(gates, index)
    return input.like(input.weight.select(0, index), scales, gates)


def _selected_gates(gates: EntryGates, index: int) -> EntryGates:
    slice_gates = gates.narrow(index, 1)
    return replace(slice_gates, log_alpha=slice_gates.log_alpha.squeeze(0))


def _selected_scales(input: GatedParameter, index: int) -> tuple[Tensor | None, ...]:
    """The scales after a selection: the index's own factor joins those along dimension 1."""
    first, second, *others = input.scales
    if first is None:
        return second, *others
    factor = first[index]
    if second is None:
        return factor.expand(input.shape[1]), *others
    return factor * second, *others
