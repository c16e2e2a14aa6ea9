"""Looking at a gated parameter another way: still gated where its gates allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any, cast

import torch
from torch import Tensor

from l0func.engine.parameter import GatedParameter, Scales, sliced
from l0func.internal.untyped import TENSOR


def transpose(input: GatedParameter, dim0: int, dim1: int) -> Any:
    """``torch.transpose``."""
    rank = input.dim()
    order = list(range(rank))
    first, second = dim0 % rank, dim1 % rank
    order[first], order[second] = order[second], order[first]
    return permute(input, order)


def permute(input: GatedParameter, *dims: Any) -> Any:
    """``torch.permute``."""
    listed: Sequence[int] = dims if isinstance(dims[0], int) else dims[0]
    order = [d % input.dim() for d in listed]
    gates = input.entry_gates
    if gates is not None and order != sorted(order):
        if input.dim() != 2 or gates.log_alpha.dim() != 2:
            return NotImplemented
        gates = replace(gates, turned=not gates.turned)
    return input.like(input.weight.permute(order), tuple(input.scales[d] for d in order), gates)


def _t(input: GatedParameter) -> Any:
    return permute(input, list(range(input.dim()))[::-1]) if input.dim() == 2 else NotImplemented


def narrow(input: GatedParameter, dim: int, start: int, length: int) -> Any:
    """``torch.narrow``."""
    dim = dim % input.dim()
    gates = input.entry_gates
    if gates is not None and (dim > 0 or gates.turned):
        return NotImplemented
    scales = tuple(
        s.narrow(0, start, length) if d == dim and s is not None else s
        for d, s in enumerate(input.scales)
    )
    return input.like(
        input.weight.narrow(dim, start, length), scales, sliced(gates, start, length)
    )


def chunk(input: GatedParameter, chunks: int, dim: int = 0) -> Any:
    """``torch.chunk``."""
    return split_sections(input, -(-input.shape[dim] // chunks) or 1, dim)


def split_sections(tensor: GatedParameter, split_size_or_sections: Any, dim: int = 0) -> Any:
    """``torch.split``."""
    size, total = split_size_or_sections, tensor.shape[dim]
    lengths = (
        [min(size, total - at) for at in range(0, total, size)]
        if isinstance(size, int)
        else list(size)
    )
    starts = [sum(lengths[:n]) for n in range(len(lengths))]
    parts = [
        narrow(tensor, dim, start, length) for start, length in zip(starts, lengths, strict=True)
    ]
    return NotImplemented if any(p is NotImplemented for p in parts) else tuple(parts)


def getitem(input: Any, index: Any) -> Any:
    """A slice, or one entry, of the first dimension."""
    if not isinstance(input, GatedParameter) or isinstance(index, bool):
        return NotImplemented
    if isinstance(index, int):
        return select(input, 0, index)
    if not isinstance(index, slice):
        return NotImplemented
    start, stop, step = cast("slice[Any, Any, Any]", index).indices(input.shape[0])
    if step == 1:
        return narrow(input, 0, start, max(stop - start, 0))
    if input.entry_gates is not None:
        return NotImplemented
    rows = input.scales[0]
    return input.like(
        input.weight[index], (None if rows is None else rows[index], *input.scales[1:]), None
    )


def select(input: GatedParameter, dim: int, index: int) -> Any:
    """``torch.select``: an entry of the first dimension, where that leaves a matrix."""
    gates, rank = input.entry_gates, input.dim()
    if (
        dim % rank != 0
        or rank < 3
        or (gates is not None and gates.turned)
        or not -input.shape[0] <= index < input.shape[0]
    ):
        return NotImplemented
    index = index % input.shape[0]
    if gates is not None:
        part = sliced(gates, index, 1)
        assert part is not None
        gates = replace(part, log_alpha=part.log_alpha.squeeze(0))
    own, rows = input.scales[0], input.scales[1]
    if own is not None:
        rows = own[index].expand(input.shape[1]) if rows is None else own[index] * rows
    return input.like(input.weight.select(0, index), (rows, *input.scales[2:]), gates)


def flatten(input: GatedParameter, start_dim: int = 0, end_dim: int = -1) -> Any:
    """``torch.flatten``."""
    first, last = start_dim % input.dim(), end_dim % input.dim()
    return reshape(
        input,
        (*input.shape[:first], prod(input.shape[first : last + 1]), *input.shape[last + 1 :]),
    )


def unsqueeze(input: GatedParameter, dim: int) -> Any:
    """``torch.unsqueeze``."""
    at = dim % (input.dim() + 1)
    return reshape(input, (*input.shape[:at], 1, *input.shape[at:]))


def squeeze(input: GatedParameter, dim: Any = None) -> Any:
    """``torch.squeeze`` of one dimension."""
    if not isinstance(dim, int) or input.shape[dim] != 1:
        return NotImplemented
    at = dim % input.dim()
    return reshape(input, (*input.shape[:at], *input.shape[at + 1 :]))


def reshape(input: GatedParameter, *sizes: Any, shape: Sequence[int] = ()) -> Any:
    """``torch.reshape``: entries keep their gates, and dimensions that merge, or are kept, their
    scales.
    """
    wanted: Any = shape if not sizes else sizes if isinstance(sizes[0], int) else sizes[0]
    if type(wanted) not in (tuple, list, torch.Size):
        return NotImplemented
    weight = input.weight.reshape(*wanted)
    runs = _matching_dims(tuple(input.shape), tuple(weight.shape))
    gates = input.entry_gates
    if (
        runs is None
        or weight.dim() < 2
        or (gates is not None and (gates.turned or gates.log_alpha.shape != input.shape))
    ):
        return NotImplemented
    scales: list[Tensor | None] = []
    for old, new in runs:
        merged = _merged(input, old)
        if merged is not None and len(new) != 1:
            return NotImplemented
        scales += [merged] if len(new) == 1 else [None] * len(new)
    if gates is not None:
        gates = replace(gates, log_alpha=gates.log_alpha.reshape(weight.shape))
    return input.like(weight, tuple(scales), gates)


def _matching_dims(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[range, range]] | None:
    """The shortest runs of dimensions of two shapes that hold the same entries."""
    if 0 in old:
        return None
    runs: list[tuple[range, range]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        first, second = i, j
        sizes = [1, 1]
        while True:
            if sizes[0] <= sizes[1] and i < len(old) and (i == first or sizes[0] < sizes[1]):
                sizes[0] *= old[i]
                i += 1
            elif j < len(new) and (j == second or sizes[1] < sizes[0]):
                sizes[1] *= new[j]
                j += 1
            else:
                break
        runs.append((range(first, i), range(second, j)))
    return runs


def _merged(input: GatedParameter, dims: range) -> Tensor | None:
    sizes = [input.shape[d] for d in dims]
    product: Tensor | None = None
    for n, d in enumerate(dims):
        scale = input.scales[d]
        if scale is not None:
            spread = scale.reshape(-1, *(1,) * (len(sizes) - n - 1)).expand(sizes)
            product = spread if product is None else product * spread
    return None if product is None else product.reshape(-1)


def contiguous(input: GatedParameter, **named: Any) -> Any:
    """Laid out: gates that would be gates at every use are gates now, once."""
    if input.entry_gates is None:
        return input
    none: Scales = (None,) * input.dim()
    return input.like(
        input.like(input.weight, none, input.entry_gates).dense(), input.scales, None
    )


HANDLERS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(
        (torch.transpose, TENSOR.transpose, TENSOR.swapaxes, torch.swapaxes), transpose
    ),
    **dict.fromkeys((torch.permute, TENSOR.permute), permute),
    **dict.fromkeys((torch.t, TENSOR.t, TENSOR.T.__get__, TENSOR.mT.__get__), _t),
    **dict.fromkeys((torch.narrow, TENSOR.narrow), narrow),
    **dict.fromkeys((torch.chunk, TENSOR.chunk), chunk),
    **dict.fromkeys((torch.split, TENSOR.split), split_sections),
    **dict.fromkeys((torch.flatten, TENSOR.flatten), flatten),
    **dict.fromkeys((torch.reshape, TENSOR.reshape, TENSOR.view), reshape),
    **dict.fromkeys((torch.unsqueeze, TENSOR.unsqueeze), unsqueeze),
    **dict.fromkeys((torch.squeeze, TENSOR.squeeze), squeeze),
    **dict.fromkeys((torch.select, TENSOR.select), select),
    TENSOR.__getitem__: getitem,
    TENSOR.contiguous: contiguous,
}
