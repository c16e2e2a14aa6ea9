"""Views that reorder a gated parameter's dimensions and leave it gated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from l0func.engine.ops.fits import has_dims
from l0func.engine.ops.table import HandlerTable
from l0func.engine.parameter import GatedParameter, Scales
from l0func.internal.untyped import TENSOR

HANDLERS = HandlerTable()


@HANDLERS.runs_for(torch.transpose, TENSOR.transpose)
def transpose(input: GatedParameter, dim0: int, dim1: int) -> Any:
    """``torch.transpose``."""
    if not has_dims(input, dim0, dim1):
        return NotImplemented
    rank = input.dim()
    order = list(range(rank))
    first, second = dim0 % rank, dim1 % rank
    order[first], order[second] = second, first
    return permute(input, order)


@HANDLERS.runs_for(torch.swapaxes, TENSOR.swapaxes)
def _swapaxes(input: GatedParameter, axis0: int, axis1: int) -> Any:
    return transpose(input, axis0, axis1)


@HANDLERS.runs_for(torch.permute, TENSOR.permute)
def permute(input: GatedParameter, *numbers: Any, dims: Sequence[int] = ()) -> Any:
    """``torch.permute``; the order comes by name, as numbers, or as one sequence."""
    given: Sequence[int] = dims
    if numbers:
        given = numbers if isinstance(numbers[0], int) else numbers[0]
    if len(given) != input.dim() or not has_dims(input, *given):
        return NotImplemented
    order = [dim % input.dim() for dim in given]
    gates = input.entry_gates
    if gates is not None and order != sorted(order):
        if input.dim() != 2 or gates.log_alpha.dim() != 2:
            return NotImplemented
        gates = replace(gates, turned=not gates.turned)
    scales = tuple(input.scales[dim] for dim in order)
    return input.like(input.weight.permute(order), scales, gates)


@HANDLERS.runs_for(torch.t, TENSOR.t, TENSOR.T.__get__, TENSOR.mT.__get__)
def _t(input: GatedParameter) -> Any:
    return permute(input, [1, 0]) if input.dim() == 2 else NotImplemented


@HANDLERS.runs_for(TENSOR.contiguous)
def contiguous(input: GatedParameter, **named: Any) -> Any:
    """``Tensor.contiguous``: entry gates are drawn once here, not at each later use."""
    if input.entry_gates is None:
        return input
    no_scales: Scales = (None,) * input.dim()
    masked_weight = input.like(input.weight, no_scales, input.entry_gates).dense()
    return input.like(masked_weight, input.scales, None)
