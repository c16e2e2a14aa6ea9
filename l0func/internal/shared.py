"""Values that are the same for all rows: vmap hides them, and they may be read all the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from l0func.internal.context import compiling, is_mapped_with
from l0func.internal.untyped import untyped


def shared_value(x: Tensor, row: Tensor, /) -> Tensor | None:
    """A tensor without its rows, if all rows have the same value.

    Args:
        x: Any tensor.
        row: A tensor that the innermost vmap maps.

    Returns:
        ``x`` itself if the vmap over ``row`` does not map it; the value of its first row if all
        rows are equal (NaNs count as equal), also in further vmaps around; None if they differ,
        or if another transform hides the values.
    """
    if not is_mapped_with(row, [x]):
        return x
    functorch: Any = untyped._C._functorch
    value = x
    # A gradient inside the row wraps the tensor once more, and hides its rows.
    while functorch.is_batchedtensor(value):
        values: Tensor = functorch.get_unwrapped(value)
        rows = values.movedim(functorch.maybe_get_bdim(value), 0)
        if _any_differs(rows) is not False:
            return None
        value = rows[0]
    return None if value is x else value


def values_of_rows(x: Tensor, row: Tensor, /) -> Tensor | None:
    """The values of a tensor for all rows.

    Args:
        x: Any tensor.
        row: A tensor that the innermost vmap maps.

    Returns:
        Plain values, shape ``(B, *x.shape)``; None if they are not known, or if they also differ
        along another vmap.
    """
    functorch: Any = untyped._C._functorch
    if not is_mapped_with(row, [x]) or not functorch.is_batchedtensor(x):
        return None
    rows = functorch.get_unwrapped(x).movedim(functorch.maybe_get_bdim(x), 0)
    while _is_wrapped(rows):
        inner: Tensor = functorch.get_unwrapped(rows)
        if functorch.is_batchedtensor(rows):
            members = inner.movedim(functorch.maybe_get_bdim(rows), 0)
            if _any_differs(members) is not False:
                return None
            inner = members[0]
        rows = inner
    return rows.detach()


def same_for_all(chunks: Sequence[Tensor], batch: int, /) -> Tensor:
    """An output without rows, from the copies that vmap made for each row, and for each mask.

    Args:
        chunks: For each chunk of rows its copies, in the first ``batch`` dimensions.
        batch: The number of these dimensions.

    Raises:
        ValueError: The copies differ; or each row made its own, and it is not known that they are
            equal, or a gradient is needed.
    """
    copies, firsts = chunks[0], [x[(0,) * batch] for x in chunks]
    repeated = _is_repeated(copies, batch)
    if not repeated and not _is_known_equal(copies.flatten(0, batch - 1)):
        raise _not_the_same(firsts[0])
    # A chunk of a single row does not show whether its output depends on the row.
    is_open = len(chunks) > 1 and not (repeated and copies.shape[0] > 1)
    if is_open and _any_differs(torch.stack(firsts)):
        raise _not_the_same(firsts[0])
    return firsts[0]


def _is_repeated(copies: Tensor, batch: int) -> bool:
    """Whether all rows and masks share one tensor.

    Under out_dims=None, vmap also refuses a tensor that only an outer vmap maps. Under
    out_dims=0, a tensor that is the same for all rows comes out expanded, with stride 0.
    """
    return all(copies.shape[dim] == 1 or copies.stride(dim) == 0 for dim in range(batch))


def _is_known_equal(rows: Tensor) -> bool:
    # Equal values may have unequal gradients.
    return not needs_gradient(rows) and _any_differs(rows) is False


def _not_the_same(x: Tensor) -> ValueError:
    return ValueError(
        "An output or buffer without rows must be the same for all rows and masks; one of shape "
        f"{tuple(x.shape)} differs from row to row. Give it a dimension of rows in out_dims; a "
        "module that writes inputs into a buffer belongs in eval mode."
    )


def _any_differs(rows: Tensor) -> bool | None:
    """Whether an entry along dimension 0 differs from the first; None if that is not known."""
    if compiling():
        return None
    first = rows[0]
    differs = (rows != first) & ~(rows.isnan() & first.isnan())
    try:
        # Not tolist(), as in known_values: inside a gradient torch 2.1 has no values for it.
        return bool(_behind_transforms(differs).any().item())
    except RuntimeError:
        # The meta device and fake tensors have no values.
        return None


def _behind_transforms(x: Tensor) -> Tensor:
    """The values for all members of the transforms around."""
    while _is_wrapped(x):
        x = untyped._C._functorch.get_unwrapped(x)
    return x


def needs_gradient(x: Tensor) -> bool:
    """Whether any transform differentiates the tensor."""
    while not x.requires_grad:
        if compiling() or not _is_wrapped(x):
            return False
        x = untyped._C._functorch.get_unwrapped(x)
    return True


def _is_wrapped(x: Tensor) -> bool:
    functorch: Any = untyped._C._functorch
    return functorch.is_batchedtensor(x) or functorch.is_gradtrackingtensor(x)


def for_each_row(x: Tensor, row: Tensor, /) -> Tensor:
    """A new tensor that the vmap over ``row`` maps: every row has the values of ``x``.

    Args:
        x: A tensor in a strided layout.
        row: A tensor that the innermost vmap maps.
    """
    always = (row == row).all().to(x.device)
    return torch.where(always, x, x)
