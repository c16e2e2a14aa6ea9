"""A batch without rows: its outputs have no rows either, and all gradients are zero.

vmap maps at least one row, so two placeholders say what the outputs look like.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from l0func.internal import tree
from l0func.internal.tree import Pytree

# BatchNorm in training mode refuses a single row.
_PLACEHOLDERS = 2


def placeholders(tensors: Sequence[Tensor], dims: Sequence[int]) -> list[Tensor]:
    """Zeros in the shapes of two rows, for tensors without any.

    Args:
        tensors: Tensors of size 0 along their row dimensions.
        dims: For each tensor its row dimension.
    """
    found: list[Tensor] = []
    for x, dim in zip(tensors, dims, strict=True):
        shape = [*x.shape[:dim], _PLACEHOLDERS, *x.shape[dim + 1 :]]
        found.append(x.new_zeros(shape))
    return found


def emptied(rows: Sequence[Tensor], sources: Sequence[Pytree]) -> list[Tensor]:
    """Outputs without rows: their gradient in every source is zero.

    A process without rows takes part in a collective backward pass all the same.

    Args:
        rows: The outputs of the placeholders, rows along dimension 0.
        sources: Pytrees of tensors: params, gates and inputs.
    """
    zero: Any = 0.0
    for source in sources:
        for t in tree.leaves(source).values():
            if t.is_floating_point():
                # The sum over no entries; 0 times an infinite entry would be NaN.
                part = t.reshape(1) if t.dim() == 0 else t
                zero = zero + part.narrow(0, 0, 0).sum()
    return [_emptied(x, zero) for x in rows]


def _emptied(x: Tensor, zero: Any) -> Tensor:
    empty = x.new_zeros((0, *x.shape[1:]))
    if not isinstance(zero, Tensor) or not (x.is_floating_point() or x.is_complex()):
        return empty
    return empty + zero.to(device=x.device, dtype=x.dtype)
