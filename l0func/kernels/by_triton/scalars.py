"""The vocabulary of formulas in float32, written out in plain operations.

Triton's own exp and log are approximate on a GPU, and its interpreter has no log1p, expm1, ndtr
and ndtri. These run on both, at most 4 units in the last place from torch.
"""

from __future__ import annotations

from typing import Any

from l0func.kernels.by_triton.triton_names import tl


def exp(x: Any) -> Any:
    """The exponential, to one unit in the last place."""
    clamped = clip(x, -104.0, 89.0)
    # floor(y + 1/2) instead of a rounding instruction, that the interpreter lacks.
    count = tl.floor(clamped * 1.44269504 + 0.5)
    # log(2) in two parts: the first has few bits, so that its product with the count is exact.
    r = (clamped - count * 0.693359375) - count * -2.12194440e-4
    tail = 1.9875691500e-4 * r + 1.3981999507e-3
    tail = tail * r + 8.3334519073e-3
    tail = tail * r + 4.1665795894e-2
    tail = tail * r + 1.6666665459e-1
    tail = tail * r + 5.0000001201e-1
    value = tail * r * r + r + 1.0
    # In two steps: one power of two alone would overflow before the product does.
    whole = count.to(tl.int32)
    half = whole >> 1
    first = ((half + 127) << 23).to(tl.float32, bitcast=True)
    second = ((whole - half + 127) << 23).to(tl.float32, bitcast=True)
    return tl.where(x != x, x, value * first * second)


def log(x: Any) -> Any:
    """The natural logarithm."""
    tiny = x < 1.17549435e-38
    scaled = tl.where(tiny, x * 8388608.0, x)
    bits = scaled.to(tl.int32, bitcast=True)
    # The mantissa in [sqrt(1/2), sqrt(2)), and its exponent.
    exponent = (bits - 0x3F3504F3) >> 23
    m = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    e = exponent.to(tl.float32) - tl.where(tiny, 23.0, 0.0)
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
    value = tl.where(x == float("inf"), x, value)
    value = tl.where(x == 0.0, float("-inf"), value)
    value = tl.where(x < 0.0, float("nan"), value)
    return tl.where(x != x, x, value)


def log1p(x: Any) -> Any:
    """log(1 + x), accurate for small x."""
    total = 1.0 + x
    # Exact by Sterbenz where it matters; the quotient restores the bits that the sum lost.
    lost = total - 1.0
    is_lost = lost == 0.0
    corrected = log(total) * (x / tl.where(is_lost, 1.0, lost))
    value = tl.where(total > 3.0e38, log(total), corrected)
    return tl.where(is_lost, x, tl.where(total == 0.0, float("-inf"), value))


def expm1(x: Any) -> Any:
    """exp(x) - 1, accurate for small x."""
    r = clip(x, -0.5, 0.5)
    tail = 1.9875691500e-4 * r + 1.3981999507e-3
    tail = tail * r + 8.3334519073e-3
    tail = tail * r + 4.1665795894e-2
    tail = tail * r + 1.6666665459e-1
    tail = tail * r + 5.0000001201e-1
    near = tail * r * r + r
    return tl.where(r == x, near, exp(x) - 1.0)


def sqrt(x: Any) -> Any:
    """The square root."""
    return tl.sqrt(x)


def where(condition: Any, yes: Any, no: Any) -> Any:
    """``yes`` where the condition holds, else ``no``."""
    return tl.where(condition, yes, no)


def clip(x: Any, low: Any, high: Any) -> Any:
    """``x`` limited to [low, high]; a NaN stays."""
    return tl.where(x <= low, low, tl.where(x >= high, high, x))
