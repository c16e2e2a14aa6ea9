"""The vocabulary in float64: the C library's functions."""

from __future__ import annotations

import math
from typing import Any


def exp(x: Any) -> Any:
    """The exponential."""
    return math.exp(x)


def log(x: Any) -> Any:
    """The natural logarithm."""
    return math.log(x)


def log1p(x: Any) -> Any:
    """log(1 + x)."""
    return math.log1p(x)


def expm1(x: Any) -> Any:
    """exp(x) - 1."""
    return math.expm1(x)


def sqrt(x: Any) -> Any:
    """The square root."""
    return math.sqrt(x)


def where(condition: Any, yes: Any, no: Any) -> Any:
    """``yes`` where the condition holds, else ``no``."""
    return yes if condition else no


def ndtr(x: Any) -> Any:
    """The standard normal distribution function."""
    return 0.5 * math.erfc(-x * 0.7071067811865476)
