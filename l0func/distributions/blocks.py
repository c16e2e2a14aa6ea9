"""A user's functions, run so that a gate's bits do not depend on its position in a tensor.

On the CPU torch computes the last entries of a tensor by other instructions than the rest. Some
functions, such as sigmoid and pow, have other last bits there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from l0func.internal.context import compiling
from l0func.internal.untyped import untyped

_LANES = 64
"""A multiple of the entries that any CPU computes at once."""

_BLOCK = 1 << 14
"""Entries at once: torch runs so few on one thread."""


def by_blocks(function: Callable[..., Any], /, *tensors: Tensor) -> Any:
    """An elementwise function, on flat blocks that are filled up to whole vectors.

    Args:
        function: From tensors of one shape to a tensor of it, or to a tuple of such tensors.
        *tensors: Tensors that broadcast.
    """
    if compiling() or not tensors[-1].is_cpu or _is_block(tensors):
        return function(*tensors)
    spread: list[Tensor] = untyped.broadcast_tensors(*tensors)
    shape, size = spread[0].shape, spread[0].numel()
    # A half is a probability, a gate value and a location.
    missing = -size % _LANES if size else _LANES
    filled = [F.pad(t.reshape(-1), (0, missing), value=0.5) for t in spread]
    cut = [torch.split(t, _BLOCK) for t in filled]
    results: list[Any] = [function(*block) for block in zip(*cut, strict=True)]
    if isinstance(results[0], Tensor):
        return torch.cat(results)[:size].reshape(shape)
    columns = zip(*results, strict=True)
    return tuple([torch.cat(column)[:size].reshape(shape) for column in columns])


def _is_block(tensors: tuple[Tensor, ...]) -> bool:
    shape = tensors[0].shape
    if len(shape) != 1 or shape[0] % _LANES or not 0 < shape[0] <= _BLOCK:
        return False
    return all(t.shape == shape and t.is_contiguous() for t in tensors)
