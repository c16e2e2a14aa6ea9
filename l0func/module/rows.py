"""The rows of an ``L0Module``'s batch: their number, their global numbers and their keys."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

from torch import Tensor, nn

from l0func import random
from l0func.engine.per_example import input_dims
from l0func.engine.row import Axis
from l0func.internal.mapped import flatten_mapped
from l0func.internal.scalars import with_type


class _Inputs(NamedTuple):
    """A call's inputs, under the names that an error shows."""

    inputs: tuple[Any, ...]
    kwargs: dict[str, Any]


def takes_rows(module: nn.Module) -> bool:
    """Whether the module's own forward has an input named ``rows``."""
    try:
        return "rows" in inspect.signature(module.forward).parameters
    except (TypeError, ValueError):
        # A forward in C has no signature.
        return False


def check_rows_argument(
    rows: Any,
    size: int,
    key: Tensor,
    by_row: bool,
    rank: int | None,
) -> None:
    """Refuse global numbers of rows that do not fit the batch or the module's settings.

    Args:
        rows: What the user gave.
        size: The number of rows in the inputs.
        key: The module's key.
        by_row: Whether every row has its own masks.
        rank: The number that sets the draws of this process apart.

    Raises:
        TypeError: ``rows`` is no tensor of an integer type.
        ValueError: One of the settings excludes rows, their number is another, or
            :func:`l0func.random.row_keys` would refuse them. Nothing has been drawn then.
    """
    if not by_row:
        raise ValueError(
            "rows= gives every row the masks of its global number, and this L0Module has one mask "
            "for the batch. Set per_example=True, or leave rows out."
        )
    if rank is not None:
        raise ValueError(
            "rows= asks for the masks that one process would draw, and rank= sets those of this "
            f"process apart (here rank={rank}). Leave one of them out."
        )
    if not isinstance(rows, Tensor):
        raise TypeError(
            f"rows are the global numbers of rows, an int64 tensor of shape (B,); got "
            f"{with_type(rows)}."
        )
    if tuple(rows.shape) != (size,):
        raise ValueError(
            f"rows has a number for every row of the batch, shape ({size},); got "
            f"{tuple(rows.shape)}."
        )
    random.check_row_numbers(rows, key)


def keys_for_batch(key: Tensor, rows: Tensor | None, size: int) -> Tensor:
    """A key for every row: that of its global number, or else of its place in the batch."""
    return random.split(key, size) if rows is None else random.row_keys(key, rows)


def batch_size(inputs: tuple[Any, ...], kwargs: dict[str, Any], in_dims: Axis) -> int:
    """The number of rows in the inputs; ``in_dims`` says where they are, as in ``per_example``.

    Raises:
        ValueError: No input has rows.
    """
    dims = input_dims(in_dims, len(inputs), kwargs), dict.fromkeys(kwargs, 0)
    found = flatten_mapped(_Inputs(inputs, kwargs), dims, "in_dims", "")
    for tensor, dim in zip(found.tensors, found.dims, strict=True):
        return tensor.shape[dim]
    raise ValueError(
        "per_example=True gives every row of an input its own masks; no input is a tensor with "
        "rows."
    )
