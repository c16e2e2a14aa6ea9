"""Looking at a gated parameter another way: still gated where its gates allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from l0func.parameter import GatedParameter, Scales, sliced


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
    drawn = input.drawn
    if drawn is not None and order != sorted(order):
        if input.dim() != 2 or drawn.log_alpha.dim() != 2:
            return NotImplemented
        drawn = replace(drawn, turned=not drawn.turned)
    return input.like(input.weight.permute(order), tuple(input.scales[d] for d in order), drawn)


def _t(input: GatedParameter) -> Any:
    return permute(input, list(range(input.dim()))[::-1]) if input.dim() == 2 else NotImplemented


def narrow(input: GatedParameter, dim: int, start: int, length: int) -> Any:
    """``torch.narrow``."""
    dim = dim % input.dim()
    drawn = input.drawn
    if drawn is not None and (dim > 0 or drawn.turned):
        return NotImplemented
    scales = tuple(s.narrow(0, start, length) if d == dim and s is not None else s for d, s in enumerate(input.scales))
    return input.like(input.weight.narrow(dim, start, length), scales, sliced(drawn, start, length))


def chunk(input: GatedParameter, chunks: int, dim: int = 0) -> Any:
    """``torch.chunk``."""
    return split(input, -(-input.shape[dim] // chunks) or 1, dim)


def split(tensor: GatedParameter, split_size_or_sections: Any, dim: int = 0) -> Any:
    """``torch.split``."""
    size, total = split_size_or_sections, tensor.shape[dim]
    lengths = [min(size, total - at) for at in range(0, total, size)] if isinstance(size, int) else list(size)
    starts = [sum(lengths[:n]) for n in range(len(lengths))]
    parts = [narrow(tensor, dim, start, length) for start, length in zip(starts, lengths, strict=True)]
    return NotImplemented if any(p is NotImplemented for p in parts) else tuple(parts)


def getitem(input: Any, index: Any) -> Any:
    """A slice of the first dimension."""
    if not isinstance(input, GatedParameter) or not isinstance(index, slice):
        return NotImplemented
    start, stop, step = cast("slice[Any, Any, Any]", index).indices(input.shape[0])
    if step != 1:
        return NotImplemented
    return narrow(input, 0, start, max(stop - start, 0))


def flatten(input: GatedParameter, start_dim: int = 0, end_dim: int = -1) -> Any:
    """``torch.flatten``."""
    rank = input.dim()
    first, last = start_dim % rank, end_dim % rank
    drawn = input.drawn
    if drawn is not None:
        if drawn.turned or drawn.log_alpha.dim() < rank:
            return NotImplemented
        drawn = replace(drawn, log_alpha=drawn.log_alpha.flatten(first, last))
    scales = (*input.scales[:first], _merged(input, first, last), *input.scales[last + 1 :])
    return input.like(input.weight.flatten(first, last), scales, drawn)


def _merged(input: GatedParameter, first: int, last: int) -> Tensor | None:
    sizes = input.shape[first : last + 1]
    product: Tensor | None = None
    for d, scale in enumerate(input.scales[first : last + 1]):
        if scale is not None:
            spread = scale.reshape(-1, *(1,) * (len(sizes) - d - 1)).expand(sizes)
            product = spread if product is None else product * spread
    return None if product is None else product.reshape(-1)


def contiguous(input: GatedParameter, **named: Any) -> Any:
    """Laid out: gates that would be drawn at every use are drawn now, once."""
    if input.drawn is None:
        return input
    none: Scales = (None,) * input.dim()
    return input.like(input.like(input.weight, none, input.drawn).dense(), input.scales, None)


_TENSOR: Any = Tensor
RULES: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((torch.transpose, _TENSOR.transpose, _TENSOR.swapaxes, torch.swapaxes), transpose),
    **dict.fromkeys((torch.permute, _TENSOR.permute), permute),
    **dict.fromkeys((torch.t, _TENSOR.t, _TENSOR.T.__get__, _TENSOR.mT.__get__), _t),
    **dict.fromkeys((torch.narrow, _TENSOR.narrow), narrow),
    **dict.fromkeys((torch.chunk, _TENSOR.chunk), chunk),
    **dict.fromkeys((torch.split, _TENSOR.split), split),
    **dict.fromkeys((torch.flatten, _TENSOR.flatten), flatten),
    _TENSOR.__getitem__: getitem,
    _TENSOR.contiguous: contiguous,
}
