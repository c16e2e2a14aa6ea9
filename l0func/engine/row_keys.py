"""The keys of rows: their checks, and a map over several masks for every row.

Keys of shape ``(B, 2)`` give each row one mask, keys of shape ``(B, M, 2)`` give it M masks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from l0func import random
from l0func.engine.row import RowResult
from l0func.internal import tree
from l0func.internal.mapped import BY_POSITION, FlatMapped
from l0func.internal.tree import Tree

_MAKE = "l0func.random.split(key, B)"
_MAKE_SEVERAL = "l0func.random.split(l0func.random.split(key, B), M)"


def has_several_masks(keys: Tensor) -> bool:
    """Whether the keys have a dimension of masks behind that of rows."""
    return keys.dim() == 3


def check_keys_of_rows(keys: Tensor) -> None:
    """Refuse anything but a key, or M keys, for every row.

    Raises:
        TypeError: Not an int64 tensor.
        ValueError: The shape is neither ``(B, 2)`` nor ``(B, M, 2)`` with M > 0.
    """
    random.check_key(keys)
    if keys.dim() not in (2, 3):
        raise ValueError(
            f"per_example needs a key for every row, shape (B, 2); got {tuple(keys.shape)}. "
            f"Make them with {_MAKE}. Keys of shape (B, M, 2) give each row M masks: "
            f"{_MAKE_SEVERAL}."
        )
    if has_several_masks(keys) and keys.shape[1] == 0:
        raise ValueError(
            "Keys of shape (B, M, 2) give each row M masks, and M is at least 1; got "
            f"{tuple(keys.shape)}. Make them with {_MAKE_SEVERAL}."
        )


def check_one_mask(keys: Any) -> None:
    """Refuse several masks for a row in a call that returns new buffers.

    Raises:
        ValueError: The keys have shape ``(B, M, 2)``.
    """
    if isinstance(keys, Tensor) and has_several_masks(keys):
        raise ValueError(
            "rows.with_buffers updates the buffers once, for one mask in each row; keys of shape "
            f"{tuple(keys.shape)} give each row {keys.shape[1]} masks, and each would make an "
            "update of its own. Pass one key for every row, shape (B, 2), or call "
            "rows(params, gates, buffers, keys, x), which returns the outputs alone."
        )


def check_number_of_rows(keys: Tensor, arguments: FlatMapped, kwargs: Mapping[str, Any]) -> None:
    """Refuse inputs that differ in their number of rows, or have another number than the keys.

    Raises:
        ValueError: They do.
    """
    rows = keys.shape[0]
    sizes = {x.shape[dim] for x, dim in arguments.mapped()}
    if len(sizes) > 1:
        shapes = [f"{tuple(x.shape)} along {dim}" for x, dim in arguments.mapped()]
        got = ", ".join(shapes)
        raise ValueError(
            f"All inputs have the same number of rows; got {got}. Say in in_dims "
            "where the rows of each input are, None for an input that all rows share."
            f"{' ' + BY_POSITION if kwargs else ''}"
        )
    if sizes - {rows}:
        raise ValueError(
            f"The number of keys is the number of rows; got {rows} keys for {sizes.pop()} rows. "
            f"{_how_many(keys, arguments)}"
        )


def check_rows_of_gates(keys: Tensor, gates: Tree, dim: int) -> None:
    """Refuse gates that do not have a vector for every row, where ``gate_dims`` says so.

    Raises:
        ValueError: A gate vector has no such dimension, or another number of rows than the keys.
    """
    rows = keys.shape[0]
    for name, log_alpha in tree.leaves(gates, "gates").items():
        shape = tuple(log_alpha.shape)
        if not -len(shape) <= dim < len(shape) or shape[dim] != rows:
            raise ValueError(
                f"gate_dims={dim} says that each of the {rows} rows has gates of its own along "
                f"dimension {dim}; the gates {name!r} have shape {shape}. Leave gate_dims out if "
                "all rows share the gates, or stack a vector for each row."
            )


def _how_many(keys: Tensor, arguments: FlatMapped) -> str:
    if not has_several_masks(keys):
        return f"Make them with {_MAKE}."
    rows = {x.shape[dim] for x, dim in arguments.mapped()}
    if keys.shape[1] in rows:
        return "Rows come first in keys of shape (B, M, 2): pass keys.transpose(0, 1)."
    return f"Make keys of shape (B, M, 2) with {_MAKE_SEVERAL}."


def map_over_masks(mapped: Callable[..., Any], in_dims: Sequence[int]) -> Callable[..., RowResult]:
    """A function of all rows, mapped over M keys for each row.

    Args:
        mapped: A function from the keys, shape ``(B, 2)``, and further tensors to outputs with
            rows, outputs without, and their form.
        in_dims: The dimensions of rows in its arguments.

    Returns:
        The same function for keys of shape ``(B, M, 2)``. All its outputs get a dimension of
        masks behind that of rows.
    """
    # Outside of the vmap over rows: every row handler takes the innermost vmap for that over rows.
    others = (None,) * (len(in_dims) - 1)
    result_dims: Any = (0, 0, None)
    over_masks = torch.vmap(mapped, (1, *others), result_dims)

    def run(keys: Tensor, *tensors: Tensor) -> RowResult:
        # torch expands an output that no vmap maps correctly along dimension 0 alone.
        rows, shared, form = over_masks(keys, *tensors)
        return _rows_first(rows), _rows_first(shared), form

    return run


def _rows_first(outputs: list[Tensor]) -> list[Tensor]:
    """Outputs with their first two dimensions, for masks and rows, exchanged."""
    return [x.transpose(0, 1) for x in outputs]
