"""Handlers for functions that read a tensor's values; :class:`l0func.pure.keyed.Keyed` uses them.

vmap runs a module once for all rows, so Python cannot branch on a row's value. A value that is
the same for all rows is read; for any other value the refusal says what to write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from l0func.internal.context import is_mapped_here
from l0func.internal.interception import function_name
from l0func.internal.shared import shared_value, values_of_rows
from l0func.internal.source_line import calling_line
from l0func.internal.untyped import TENSOR, untyped
from l0func.pure.index_writes import needs_places, write_at
from l0func.pure.writes import values_for

_BRANCH = "In place of `if`, compute both and write torch.where(condition, a, b)."
_NUMBER = "Keep the tensor and compute with it, in place of a Python number."
_MASK = "Write torch.where(mask, a, b) or x * mask, whose shapes do not depend on values."


class RowsDiffer(ValueError):
    """A value that a module reads differs from row to row.

    Attributes:
        read: The tensor, as the module has it.
        values: Its values for all rows, rows first; None if they are not known.
    """

    read: Tensor
    values: Tensor | None


def _differs_by_row(func: Any, x: Tensor, row: Tensor, advice: str) -> RowsDiffer:
    """The error for a value that differs from row to row."""
    error = RowsDiffer(
        f"{function_name(func)} needs one value for the whole call{calling_line()}, and here it "
        "differs from row to row: each example has its own mask, and the module runs once for "
        f"all. {advice} Or run the rows one after another: l0func.per_example(apply, "
        "chunk_size=1), with one key for each row."
    )
    error.read, error.values = x, values_of_rows(x, row)
    return error


def _one_value(mode: Any, func: Any, x: Any, advice: str) -> Any:
    """The value of an argument for all rows."""
    if not isinstance(x, Tensor):
        return x
    value = shared_value(x, mode.key)
    if value is None:
        raise _differs_by_row(func, x, mode.key, advice)
    return value


def _in_rows(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The handler where every row has its own key; elsewhere the function itself."""

    def in_rows(mode: Any, func: Any, /, *args: Any, **named: Any) -> Any:
        if mode.key is None or not is_mapped_here(mode.key):
            return func(*args, **named)
        return handler(mode, func, *args, **named)

    return in_rows


def _reads(advice: str) -> Callable[..., Any]:
    """A handler for a function that reads all its tensors."""

    def reads(mode: Any, func: Any, /, *args: Any, **named: Any) -> Any:
        values = [_one_value(mode, func, x, advice) for x in args]
        return func(*values, **named)

    return _in_rows(reads)


def _truth_in_rows(mode: Any, func: Any, /, x: Tensor) -> bool:
    return bool(_one_value(mode, func, x != 0, _BRANCH))


def _equal_in_rows(mode: Any, func: Any, /, input: Tensor, other: Tensor) -> bool:
    if input.shape != other.shape:
        return False
    return bool(_one_value(mode, func, (input == other).all(), _BRANCH))


def _allclose(
    mode: Any,
    func: Any,
    /,
    input: Tensor,
    other: Tensor,
    rtol: float = 1e-5,
    atol: float = 1e-8,
    equal_nan: bool = False,
) -> bool:
    near = (input - other).abs() <= atol + rtol * other.abs()
    close = near | (input == other)
    if equal_nan:
        close = close | (input.isnan() & other.isnan())
    return bool(_one_value(mode, func, close.all(), _BRANCH))


def _contains(mode: Any, func: Any, /, x: Tensor, element: Any) -> bool:
    return bool(_one_value(mode, func, (x == element).any(), _BRANCH))


def _nonzero_places(mode: Any, func: Any, /, input: Tensor, *args: Any, **named: Any) -> Any:
    """The places of values that are not zero."""
    return func(_one_value(mode, func, input != 0, _MASK), *args, **named)


def _where_places(mode: Any, func: Any, /, condition: Tensor, *args: Any, **named: Any) -> Any:
    if args or named:
        return func(condition, *args, **named)
    return _nonzero_places(mode, func, condition)


def _masked_select(mode: Any, func: Any, /, input: Tensor, mask: Tensor, **named: Any) -> Tensor:
    return func(input, _one_value(mode, func, mask, _MASK), **named)


def _is_mask(index: Any) -> bool:
    is_mask = isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
    return is_mask and index.dim() > 0


def _get_item(mode: Any, func: Any, /, x: Tensor, index: Any) -> Any:
    return func(x, _with_places(mode, func, index))


def _with_places(mode: Any, func: Any, index: Any, /) -> Any:
    """An index with the places of the masks in it, because vmap takes no masks."""
    entries = index if type(index) in (tuple, list) else (index,)
    if not any(_is_mask(entry) for entry in entries):
        return index
    places: list[Any] = []
    for entry in entries:
        if _is_mask(entry):
            places += _one_value(mode, func, entry, _MASK).nonzero(as_tuple=True)
        else:
            places.append(entry)
    return tuple(places)


def _set_item(mode: Any, func: Any, /, x: Tensor, index: Any, value: Any) -> Any:
    is_mask = _is_mask(index) and shared_value(index, mode.key) is None
    if is_mask and not (isinstance(value, Tensor) and value.numel() != 1):
        # The same number at all places of a mask: its shape does not depend on values.
        entry = torch.as_tensor(value, dtype=x.dtype, device=x.device).reshape(())
        mask = index.bool().reshape(*index.shape, *(1,) * (x.dim() - index.dim()))
        x.copy_(torch.where(mask, entry, x))
        return None
    index, value = values_for(mode, func, x, (index, value))
    places = _with_places(mode, func, index)
    if not needs_places(places, mode.key):
        return func(x, places, value)
    x.copy_(write_at(x, places, value))
    return None


def _index_put(mode: Any, func: Any, /, x: Tensor, indices: Any, *args: Any, **named: Any) -> Any:
    if func is not TENSOR.index_put and func is not torch.index_put:
        indices, args = values_for(mode, func, x, (indices, args))
    return func(x, _with_places(mode, func, indices), *args, **named)


def _not_left_aligned(mode: Any, func: Any, /, *args: Any, **named: Any) -> bool:
    """An answer that keeps nn.TransformerEncoder off its road over nested tensors."""
    # It takes that road neither in the context of a mode nor under vmap, but asks beforehand.
    return False


_READS_AS_NUMBER = ("item", "tolist", "numpy", "__int__", "__float__", "__complex__", "__index__")
_SIZED_BY_VALUES = ("unique", "unique_consecutive", "bincount")
_Table: TypeAlias = dict[Callable[..., Any], list[Any]]
_VALUE_READS: _Table = {
    _in_rows(_truth_in_rows): [TENSOR.__bool__, TENSOR.is_nonzero, untyped.is_nonzero],
    _reads(_NUMBER): [
        getattr(TENSOR, name) for name in (*_READS_AS_NUMBER, "__format__", "__array__")
    ],
    _in_rows(_equal_in_rows): [TENSOR.equal, torch.equal],
    _in_rows(_allclose): [TENSOR.allclose, torch.allclose],
    _in_rows(_contains): [TENSOR.__contains__],
}
_PLACE_READS: _Table = {
    _in_rows(_nonzero_places): [TENSOR.nonzero, TENSOR.argwhere, torch.nonzero, torch.argwhere],
    _in_rows(_where_places): [torch.where],
    _in_rows(_masked_select): [TENSOR.masked_select, torch.masked_select],
    _reads(_MASK): [
        *[getattr(TENSOR, name) for name in _SIZED_BY_VALUES],
        *[getattr(untyped, name) for name in _SIZED_BY_VALUES],
    ],
}
_INDEX_READS: _Table = {
    _in_rows(_get_item): [TENSOR.__getitem__],
    _in_rows(_set_item): [TENSOR.__setitem__],
    _in_rows(_index_put): [
        TENSOR.index_put,
        TENSOR.index_put_,
        torch.index_put,
        untyped.index_put_,
    ],
}
READ_HANDLERS: dict[Any, Any] = {untyped._nested_tensor_from_mask_left_aligned: _not_left_aligned}
for _table in (_VALUE_READS, _PLACE_READS, _INDEX_READS):
    for _handler, _functions in _table.items():
        READ_HANDLERS.update(dict.fromkeys(_functions, _handler))
