"""Values from a JSON document, each checked for its type: names, sizes, flags and records.

``where`` is the value's place in the document, for the message, such as ``gates[3].shape``.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, cast

import torch

from l0func.internal import names
from l0func.internal.strict_json import shown
from l0func.spec.rules import Shape

# No tensor has more entries. It leaves room for 16 bytes an entry in 64 bits.
_MOST_ENTRIES = 2**58


def _dtypes() -> dict[str, torch.dtype]:
    found: dict[str, torch.dtype] = {}
    for value in vars(torch).values():
        if isinstance(value, torch.dtype):
            found[str(value).removeprefix("torch.")] = value
    return found


_TORCH_DTYPES = _dtypes()
"""torch's dtypes by name; a text from a file is looked up here and nowhere else."""


def fields_of(
    value: Any, where: str, required: Collection[str], *, others: bool = False
) -> dict[str, Any]:
    """A new dict with a record's fields.

    Args:
        value: The value.
        where: Its place in the document.
        required: The fields that the record has.
        others: Whether it may have others.

    Raises:
        ValueError: The value is no record, lacks a field, or has an unknown one.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{where} is a record; got {shown(value)}.")
    record = cast("dict[str, Any]", value)
    for name in required:
        if name not in record:
            raise ValueError(f"{where} lacks {name!r}.")
    for name in () if others else record:
        if name not in required:
            near = names.closest(name[:80], required)
            raise ValueError(f"{where} has an unknown field {shown(name)}{near}.")
    return dict(record)


def list_of(value: Any, where: str) -> list[Any]:
    """A list.

    Raises:
        ValueError: The value has another type.
    """
    if not isinstance(value, list):
        raise ValueError(f"{where} is a list; got {shown(value)}.")
    return cast("list[Any]", value)


def text_of(value: Any, where: str) -> str:
    """A text.

    Raises:
        ValueError: The value has another type.
    """
    if not isinstance(value, str):
        raise ValueError(f"{where} is a text; got {shown(value)}.")
    return value


def flag_of(value: Any, where: str) -> bool:
    """A bool.

    Raises:
        ValueError: The value has another type.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{where} is true or false; got {shown(value)}.")
    return value


def integer_of(value: Any, where: str) -> int:
    """An integer; JSON's true, false and 3.0 are none.

    Raises:
        ValueError: The value has another type.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{where} is an integer; got {shown(value)}.")
    return value


def shape_of(value: Any, where: str) -> Shape:
    """The shape of a tensor: sizes from 0 on.

    Raises:
        ValueError: The value is no list of such sizes, or no tensor is as large.
    """
    sizes = list_of(value, where)
    shape = tuple(integer_of(size, f"{where}[{i}]") for i, size in enumerate(sizes))
    if any(size < 0 for size in shape):
        raise ValueError(f"{where} has sizes from 0 on; got {shown(str(shape))}.")
    # Strides multiply the sizes beside a 0 too.
    if math.prod(max(size, 1) for size in shape) > _MOST_ENTRIES:
        raise ValueError(f"{where} is larger than any tensor; got {shown(str(shape))}.")
    return shape


def dtype_of(value: Any, where: str) -> torch.dtype:
    """A dtype, by its name without ``torch.``.

    Raises:
        ValueError: No dtype has this name.
    """
    name = text_of(value, where)
    if name not in _TORCH_DTYPES:
        near = names.closest(name[:80], _TORCH_DTYPES)
        raise ValueError(f"{where} is the name of a dtype; got {shown(name)}{near}.")
    return _TORCH_DTYPES[name]
