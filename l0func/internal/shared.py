"""Values that are the same for all rows: vmap hides them, and they may be read all the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l0func.internal.context import is_mapped_with, known_values
from l0func.internal.untyped import untyped


def shared_value(x: Tensor, row: Tensor, /) -> Tensor | None:
    """A tensor without its rows, if all rows have the same value.

    Args:
        x: Any tensor.
        row: A tensor that the innermost vmap maps.

    Returns:
        ``x`` itself if the vmap over ``row`` does not map it; the value of its first row if all
        rows are equal (NaNs count as equal); None if they differ, or if a further transform hides
        the values.
    """
    if not is_mapped_with(row, [x]):
        return x
    functorch: Any = untyped._C._functorch
    if not functorch.is_batchedtensor(x):
        # A gradient inside the row wraps the tensor once more.
        return None
    values: Tensor = functorch.get_unwrapped(x)
    rows = values.movedim(functorch.maybe_get_bdim(x), 0)
    first = rows[0]
    differs = (rows != first) & ~(rows.isnan() & first.isnan())
    return first if known_values(differs.any()) is False else None


def for_each_row(x: Tensor, row: Tensor, /) -> Tensor:
    """A new tensor that the vmap over ``row`` maps: every row has the values of ``x``.

    Args:
        x: A tensor in a strided layout.
        row: A tensor that the innermost vmap maps.
    """
    always = (row == row).all().to(x.device)
    return torch.where(always, x, x)
