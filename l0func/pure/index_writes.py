"""Writes at indices that differ from row to row; :mod:`l0func.pure.reads` uses them.

torch.vmap's own rule for them takes the dimensions of a result in another order than a plain call
does, and then writes wrong values without an error.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from l0func.internal.context import is_mapped_with


def needs_places(index: Any, key: Tensor, /) -> bool:
    """Whether torch.vmap may write at this index in the wrong order.

    Args:
        index: An index, as ``x[index]`` takes it.
        key: A tensor mapped over the rows.
    """
    if not isinstance(index, tuple):
        return isinstance(index, Tensor) and is_mapped_with(key, [index])
    entries = cast("tuple[Any, ...]", index)
    tensors = [entry for entry in entries if isinstance(entry, Tensor)]
    lists = [True for entry in entries if isinstance(entry, list)]
    return len(tensors) + len(lists) > 1 or is_mapped_with(key, tensors)


def write_at(x: Tensor, index: Any, value: Any, /) -> Tensor:
    """The tensor with values written at an index: what ``x[index] = value`` leaves in it.

    Args:
        x: The tensor; it is not changed.
        index: An index, as ``x[index]`` takes it.
        value: A number, or a tensor that broadcasts to ``x[index]``.
    """
    numbers = torch.arange(x.numel(), device=x.device)
    places = numbers.reshape(x.shape)[index]
    values = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    flat = _without_surplus(values, places.shape).expand(places.shape).reshape(-1)
    return x.reshape(-1).scatter(0, places.reshape(-1), flat).reshape(x.shape)


def _without_surplus(values: Tensor, shape: torch.Size) -> Tensor:
    """The values without leading dimensions of size 1 that an indexed result lacks."""
    surplus = values.dim() - len(shape)
    return values.reshape(values.shape[surplus:]) if surplus > 0 else values
