"""Checks of numbers that a user gives: something else is named before arithmetic meets it."""

from __future__ import annotations

import operator
from numbers import Real
from typing import Any

from torch import Tensor

from l0func.internal.scalars import with_type


def check_number(name: str, value: Any) -> None:
    """Refuse anything but a real number.

    Args:
        name: A name for the number in an error.
        value: A number, or a tensor with one number.

    Raises:
        TypeError: The value is something else.
    """
    is_one = isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex()
    if not is_one and (isinstance(value, bool) or not isinstance(value, Real)):
        raise TypeError(f"{name} is a number; got {with_type(value)}.")


def whole_number(name: str, value: Any) -> int:
    """The value as an integer.

    Raises:
        TypeError: The value is no integer.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is a whole number; got {value!r}.") from None
