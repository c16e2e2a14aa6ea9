"""The vocabulary in float32, without branches: the compiler turns loops over it into vectors."""

from __future__ import annotations

from typing import Any

from l0func.kernels.by_numba.bits import bits_of, float_of
from l0func.kernels.by_numba.numba_names import numpy as np
from l0func.kernels.by_numba.scalars import sqrt, where


def exp(x: Any) -> Any:
    """The exponential, to one unit in the last place."""
    return _exp_of_sum(x, 0.0)


def _exp_of_sum(x: Any, rest: Any) -> Any:
    """exp(x + rest), for a rest too small to be added to x."""
    clamped = where(x > 89.0, 89.0, where(x < -104.0, -104.0, x))
    count = np.rint(clamped * 1.44269504)
    # log(2) in two parts: the first has few bits, so that its product with the count is exact.
    r = (clamped - count * 0.693359375) - (count * -2.12194440e-4 - rest)
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


def ndtr(x: Any) -> Any:
    """The standard normal distribution function, accurate in its left tail too."""
    a = where(x < 0.0, -x, x)
    a = where(a > 15.0, 15.0, a)
    # exp(-a²/2) from two parts of a²: the first is exact, because its root has 12 bits. Rounding
    # the square would cost a hundred units in the last place far out.
    head = float_of(bits_of(a) & np.uint32(0xFFFFF000))
    shifted = a + 2.0
    t = 1.0 / shifted
    # What the sum lost goes into the exponent, where it costs no rounding.
    lost = a - (shifted - 2.0)
    density = _exp_of_sum(-0.5 * head * head, -0.5 * (a - head) * (a + head) - lost * t)
    ratio = 1.294683078e02 * t - 1.999723528e02
    ratio = ratio * t + 9.616174748e01
    ratio = ratio * t + 3.257075594e00
    ratio = ratio * t - 1.298554894e01
    ratio = ratio * t - 7.789801462e-01
    ratio = ratio * t + 6.610299912e-01
    ratio = ratio * t + 1.205703001e00
    ratio = ratio * t + 7.975729019e-01
    ratio = ratio * t + 3.989468621e-01
    tail = ratio * density / shifted
    square = x * x
    near = 5.368356159e-07 * square - 9.273105607e-06
    near = near * square + 1.153192741e-04
    near = near * square - 1.187287971e-03
    near = near * square + 9.973550285e-03
    near = near * square - 6.649037964e-02
    near = near * square + 3.989422804e-01
    far = where(x > 0.0, 1.0 - tail, tail)
    return where(a < 1.0, 0.5 + x * near, far)


def ndtri(u: Any) -> Any:
    """The inverse of ``ndtr``."""
    # As Giles (2010), "Approximating the erfinv function": in w = -log(4u(1 - u)) the function
    # is nearly a straight line. Near 1/2 the factor 1 - 2u holds the digits, in the tails v does.
    v = where(u > 0.5, 1.0 - u, u)
    w = -log(4.0 * v * (1.0 - v))
    middle = -1.243243029e-08 * w + 3.125856008e-07
    middle = middle * w - 2.795150337e-06
    middle = middle * w + 5.633211501e-06
    middle = middle * w + 6.302454259e-05
    middle = middle * w - 1.802859350e-04
    middle = middle * w - 3.301193664e-03
    middle = middle * w + 1.633226315e-02
    middle = middle * w + 3.281170881e-01
    middle = middle * w + 1.253314130e00
    root = sqrt(where(w > 5.0, w, 5.0))
    x = root - 3.018033989
    near = -4.488123876e-4 * x + 7.537357188e-5
    near = near * x + 2.130321273e-3
    near = near * x - 4.955623734e-3
    near = near * x + 7.578232705e-3
    near = near * x - 1.022182208e-2
    near = near * x + 1.279047394e-2
    near = near * x + 1.417053118
    near = near * x + 4.031985096
    x = 1.0 / root - 0.180359435
    far = -1.115817399e1 * x + 4.308339875
    far = far * x - 2.031822546
    far = far * x + 1.217510889
    far = far * x - 9.194657519e-2
    far = far * x - 2.828384724e-1
    far = far * x + 1.377342348
    tail = where(root > 3.8, far * root, near)
    distance = (1.0 - 2.0 * v) * where(w > 5.0, tail, middle)
    distance = where(v == 0.0, np.float32(np.inf), distance)
    return where(u > 0.5, distance, -distance)
