"""Reshapes of a gated parameter: still gated where its gates fit the new shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from l0func.engine.entry_gates import EntryGates
from l0func.engine.ops.fits import has_dims
from l0func.engine.ops.table import HandlerTable
from l0func.engine.parameter import GatedParameter, Scales, broadcast_along
from l0func.internal.untyped import TENSOR

HANDLERS = HandlerTable()


@HANDLERS.runs_for(torch.flatten, TENSOR.flatten)
def flatten(input: GatedParameter, start_dim: int = 0, end_dim: int = -1) -> Any:
    """``torch.flatten``."""
    if not has_dims(input, start_dim, end_dim):
        return NotImplemented
    first = start_dim % input.dim()
    after = end_dim % input.dim() + 1
    sizes = list(input.shape)
    if first >= after:
        return NotImplemented
    sizes[first:after] = [prod(sizes[first:after])]
    return reshape(input, sizes)


@HANDLERS.runs_for(torch.unsqueeze, TENSOR.unsqueeze)
def unsqueeze(input: GatedParameter, dim: int) -> Any:
    """``torch.unsqueeze``."""
    if not -input.dim() - 1 <= dim <= input.dim():
        return NotImplemented
    sizes = list(input.shape)
    sizes.insert(dim % (input.dim() + 1), 1)
    return reshape(input, sizes)


@HANDLERS.runs_for(torch.squeeze, TENSOR.squeeze)
def squeeze(input: GatedParameter, dim: Any = None) -> Any:
    """``torch.squeeze`` with one dimension named."""
    if not has_dims(input, dim) or input.shape[dim] != 1:
        return NotImplemented
    sizes = list(input.shape)
    del sizes[dim]
    return reshape(input, sizes)


@HANDLERS.runs_for(TENSOR.view)
def _view(input: GatedParameter, *sizes: Any, size: Sequence[int] = ()) -> Any:
    return reshape(input, *sizes, shape=size)


@HANDLERS.runs_for(torch.reshape, TENSOR.reshape)
def reshape(input: GatedParameter, *sizes: Any, shape: Sequence[int] = ()) -> Any:
    """``torch.reshape``.

    Entries keep their gates. Dimensions keep their scales if they stay as they are, or merge with
    their neighbours.
    """
    wanted = _wanted_shape(sizes, shape)
    if type(wanted) not in (tuple, list, torch.Size) or not _moves_with_entries(input):
        return NotImplemented
    weight = input.weight.reshape(*wanted)
    if weight.dim() < 2:
        return NotImplemented
    scales = _reshaped_scales(input, tuple(weight.shape))
    if scales is None:
        return NotImplemented
    return input.like(weight, scales, _reshaped_gates(input.entry_gates, weight))


def _wanted_shape(sizes: tuple[Any, ...], shape: Sequence[int]) -> Any:
    """The new shape, given by name, as numbers, or as one sequence."""
    if not sizes:
        return shape
    return sizes if isinstance(sizes[0], int) else sizes[0]


def _moves_with_entries(input: GatedParameter) -> bool:
    """Whether a reshape can move the entry gates: one for each entry, in the weight's order."""
    gates = input.entry_gates
    if gates is None:
        return True
    return not gates.turned and gates.log_alpha.shape == input.shape


def _reshaped_gates(gates: EntryGates | None, weight: Tensor) -> EntryGates | None:
    if gates is None:
        return None
    return replace(gates, log_alpha=gates.log_alpha.reshape(weight.shape))


def _reshaped_scales(input: GatedParameter, new_shape: tuple[int, ...]) -> Scales | None:
    """The scales for the new shape; None if it splits a scaled dimension or has no entries."""
    if 0 in input.shape:
        return None
    scales: list[Tensor | None] = []
    for old_dims, new_dims in _matching_dims(tuple(input.shape), new_shape):
        merged = _merged_scale(input, old_dims)
        if merged is None:
            scales += [None] * len(new_dims)
        elif len(new_dims) == 1:
            scales.append(merged)
        else:
            return None
    return tuple(scales)


def _matching_dims(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[range, range]]:
    """Pair runs of dimensions in two shapes: the shortest runs with equally many entries.

    Example:
        >>> _matching_dims((4, 2, 3), (8, 3))
        [(range(0, 2), range(0, 1)), (range(2, 3), range(1, 2))]
    """
    runs: list[tuple[range, range]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        old_length, new_length = _first_match(old[i:], new[j:])
        old_dims = range(i, i + old_length)
        new_dims = range(j, j + new_length)
        runs.append((old_dims, new_dims))
        i, j = old_dims.stop, new_dims.stop
    return runs


def _first_match(old: tuple[int, ...], new: tuple[int, ...]) -> tuple[int, int]:
    """How many leading dimensions each shape needs until their products are equal."""
    old_length = min(len(old), 1)
    new_length = min(len(new), 1)
    while True:
        old_size = prod(old[:old_length])
        new_size = prod(new[:new_length])
        if old_size == new_size:
            return old_length, new_length
        if old_size < new_size:
            old_length += 1
        else:
            new_length += 1


def _merged_scale(input: GatedParameter, dims: range) -> Tensor | None:
    """The scales along some neighbouring dimensions, as one vector over all of them."""
    sizes = [input.shape[dim] for dim in dims]
    product: Tensor | None = None
    for position, dim in enumerate(dims):
        scale = input.scales[dim]
        if scale is not None:
            spread = broadcast_along(scale, position, len(sizes)).expand(sizes)
            product = spread if product is None else product * spread
    return None if product is None else product.reshape(-1)
