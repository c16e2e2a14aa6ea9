"""Checks of numbers that users pass: each refusal names the argument and what arrived."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any

from torch import Tensor


def integer(value: Any, name: str) -> int:
    """The value as a Python integer.

    Args:
        value: An integer, or anything that Python takes for an index.
        name: The argument's name, for an error.

    Raises:
        TypeError: The value is no integer.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is an integer; got {with_type(value)}.") from None


def check_cost(value: Any, name: str) -> None:
    """Refuse anything but a cost: a finite number of at least 0, or a tensor.

    The values of a tensor are not read: it may be learned, mapped or traced.

    Args:
        value: The cost.
        name: The argument's name, for an error.

    Raises:
        TypeError: The value is neither a real number nor a tensor.
        ValueError: The number is negative, infinite or NaN.
    """
    if isinstance(value, Tensor):
        return
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} is a number or a tensor; got {with_type(value)}.")
    if not 0.0 <= float(value) < math.inf:
        raise ValueError(f"{name} is a cost, finite and at least 0; got {value}.")


def with_type(value: Any) -> str:
    """A value and its type for an error message, at most 40 characters of the value."""
    text = repr(value)
    shown = text if len(text) <= 40 else f"{text[:37]}..."
    return f"{shown} ({type(value).__name__})"
