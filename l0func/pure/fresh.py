"""Handlers for functions that make a tensor; :class:`l0func.pure.keyed.Keyed` uses them.

If each row has its own key, each row also gets its own copy of a new tensor. A module may then
write a row's values into it, as it may outside vmap.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l0func.internal.context import is_mapped_here, is_mapped_with
from l0func.internal.interception import function_name
from l0func.internal.shared import for_each_row, shared_value
from l0func.internal.source_line import calling_line
from l0func.internal.untyped import TENSOR, untyped
from l0func.pure.row_writes import is_of_row


def _make_for_rows(mode: Any, func: Any, *args: Any, **named: Any) -> Any:
    out = named.pop("out", None)
    if out is None:
        return _for_rows(mode, func(*args, **named))
    if not is_of_row(mode, out):
        return func(*args, out=out, **named)
    # vmap fills no argument, and all values are known.
    made = func(*args, **named)
    return out.resize_(made.shape).copy_(made)


def _for_rows(mode: Any, made: Any) -> Any:
    key: Tensor | None = mode.key
    if key is None or not is_mapped_here(key) or not _is_plain(made):
        return made
    return made if is_mapped_with(key, [made]) else for_each_row(made, key)


def _make_filled(mode: Any, func: Any, /, *args: Any, **named: Any) -> Any:
    # torch reads the fill value, the last argument, as a Python number.
    if "fill_value" not in named:
        *others, last = args
        return _make_filled(mode, func, *others, **named, fill_value=last)
    value = _as_number(mode, named["fill_value"])
    if not is_of_row(mode, value):
        return _make_for_rows(mode, func, *args, **{**named, "fill_value": value})
    zero = torch.zeros((), dtype=value.dtype)
    made = _make_for_rows(mode, func, *args, **{**named, "fill_value": zero.item()})
    return made.copy_(value.detach())


def _as_number(mode: Any, value: Any) -> Any:
    """A value that all rows share, as a Python number; any other value as it is."""
    if not isinstance(value, Tensor) or mode.key is None or not is_mapped_here(mode.key):
        return value
    shared = shared_value(value, mode.key)
    return value if shared is None else shared.item()


def _made_constant(mode: Any, func: Any, *args: Any, **named: Any) -> Any:
    if mode.key is None or not is_mapped_here(mode.key):
        return func(*args, **named)
    *others, data = args if "data" not in named else (*args, named.pop("data"))
    if is_of_row(mode, data):
        like = others[0] if others else data
        own = named.pop("dtype", None) or like.dtype
        return data.detach().clone().to(dtype=own, device=named.pop("device", None))
    numbers = _as_numbers(mode, func, data)
    made = _constant_like(others[0], numbers, **named) if others else func(numbers, **named)
    # Integers and masks serve as indices, sizes and ends of slices, which all rows share.
    is_number = made.is_floating_point() or made.is_complex()
    return _for_rows(mode, made) if is_number else made


def _constant_like(like: Tensor, data: Any, **named: Any) -> Tensor:
    """``like.new_tensor(data)``; torch 2.1 has none for a tensor of a row."""
    named["dtype"] = named.get("dtype") or like.dtype
    named["device"] = named.get("device") or like.device
    return untyped.tensor(data, **named)


def _as_numbers(mode: Any, func: Any, data: Any) -> Any:
    """Nested lists with a plain number for each tensor of a row, if all rows share it."""
    if type(data) in (list, tuple):
        return [_as_numbers(mode, func, part) for part in data]
    number = _as_number(mode, data)
    if is_of_row(mode, number):
        raise ValueError(
            f"{function_name(func)} makes a constant of numbers{calling_line()}, and one of them "
            "differs from row to row: each example has its own mask, and the module runs once "
            "for all. Write torch.stack([a, b]), which keeps gradients too."
        )
    return number


def _is_plain(made: Any) -> bool:
    # A leaf that needs a gradient is no place to write to.
    is_strided = type(made) is Tensor and made.layout == torch.strided
    return is_strided and not (made.requires_grad and made.is_leaf)


_FRESH_FUNCTIONS = (
    "clone",
    "empty",
    "empty_like",
    "eye",
    "ones",
    "ones_like",
    "zeros",
    "zeros_like",
)
_FRESH_METHODS = ("clone", "new_empty", "new_ones", "new_zeros")
FRESH_HANDLERS: dict[Any, Any] = {
    **{getattr(untyped, name): _make_for_rows for name in _FRESH_FUNCTIONS},
    **{getattr(TENSOR, name): _make_for_rows for name in _FRESH_METHODS},
    **dict.fromkeys([untyped.full, untyped.full_like, TENSOR.new_full], _make_filled),
    **dict.fromkeys([untyped.tensor, TENSOR.new_tensor], _made_constant),
}
