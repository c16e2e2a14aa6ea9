"""The vocabulary in float32, without branches: the compiler turns loops over it into vectors."""

from __future__ import annotations

from typing import Any

from l0func.kernels.by_numba.bits import bits_of, float_of
from l0func.kernels.by_numba.numba_names import numpy as np


def exp(x: Any) -> Any:
    """The exponential, to one unit in the last place."""
    clamped = where(x > 89.0, 89.0, where(x < -104.0, -104.0, x))
    count = np.rint(clamped * 1.44269504)
    # log(2) in two parts: the first has few bits, so that its product with the count is exact.
    r = (clamped - count * 0.693359375) - count * -2.12194440e-4
    tail = 1.9875691500e-4 * r + 1.3981999507e-3
    tail = tail * r + 8.3334519073e-3
    tail = tail * r + 4.1665795894e-2
    tail = tail * r + 1.6666665459e-1
    tail = tail * r + 5.0000001201e-1
    value = tail * r * r + r + 1.0
    # In two steps: one power of two alone would overflow before the product does.
    half = np.int32(count) >> np.int32(1)
    rest = np.int32(count) - half
    return value * _power_of_two(half) * _power_of_two(rest)


def _power_of_two(n: Any) -> Any:
    return float_of(np.uint32((n + np.int32(127)) << np.int32(23)))


def log(x: Any) -> Any:
    """The natural logarithm."""
    tiny = x < 1.17549435e-38
    scaled = where(tiny, x * 8388608.0, x)
    bits = bits_of(scaled)
    # The mantissa in [sqrt(1/2), sqrt(2)), and its exponent.
    exponent = np.int32(bits - np.uint32(0x3F3504F3)) >> np.int32(23)
    m = float_of(bits - np.uint32(exponent << np.int32(23))) - 1.0
    e = np.float32(exponent) - where(tiny, 23.0, 0.0)
    p = 7.0376836292e-2 * m - 1.1514610310e-1
    p = p * m + 1.1676998740e-1
    p = p * m - 1.2420140846e-1
    p = p * m + 1.4249322787e-1
    p = p * m - 1.6668057665e-1
    p = p * m + 2.0000714765e-1
    p = p * m - 2.4999993993e-1
    p = p * m + 3.3333331174e-1
    square = m * m
    y = p * m * square + e * -2.12194440e-4 - 0.5 * square
    value = m + y + e * 0.693359375
    infinite = np.float32(np.inf)
    value = where(x == infinite, infinite, value)
    value = where(x == 0.0, -infinite, value)
    return where(x < 0.0, np.float32(np.nan), where(x != x, x, value))


def log1p(x: Any) -> Any:
    """log(1 + x), accurate for small x."""
    total = 1.0 + x
    # Exact by Sterbenz where it matters; the quotient restores the bits that the sum lost.
    lost = total - 1.0
    corrected = log(total) * (x / where(lost == 0.0, 1.0, lost))
    return where(lost == 0.0, x, where(total > 3.0e38, log(total), corrected))


def expm1(x: Any) -> Any:
    """exp(x) - 1, accurate for small x."""
    r = where(x > 0.5, 0.5, where(x < -0.5, -0.5, x))
    tail = 1.9875691500e-4 * r + 1.3981999507e-3
    tail = tail * r + 8.3334519073e-3
    tail = tail * r + 4.1665795894e-2
    tail = tail * r + 1.6666665459e-1
    tail = tail * r + 5.0000001201e-1
    near = tail * r * r + r
    return where(r == x, near, exp(x) - 1.0)


def sqrt(x: Any) -> Any:
    """The square root."""
    return np.sqrt(x)


def where(condition: Any, yes: Any, no: Any) -> Any:
    """``yes`` where the condition holds, else ``no``."""
    return yes if condition else no
