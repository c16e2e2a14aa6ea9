"""The standard normal distribution function and its inverse in float32, in plain operations."""

from __future__ import annotations

from typing import Any

from l0func.kernels.by_triton.scalars import exp, expm1, log
from l0func.kernels.by_triton.triton_names import tl


def ndtr(x: Any) -> Any:
    """The standard normal distribution function, accurate where it is small."""
    t = tl.minimum(tl.abs(x), 14.5)
    # The tail over the density is smooth: a polynomial in s, fitted to 1e-8.
    s = 1.0 / (1.0 + 0.3 * t)
    p = -0.021096814423799515 * s + 0.11488762497901917
    p = p * s - 0.2336970716714859
    p = p * s + 0.19871704280376434
    p = p * s - 0.08487101644277573
    p = p * s + 0.0989094078540802
    p = p * s + 0.07749739289283752
    p = p * s + 0.11041394621133804
    p = p * s + 0.11955185234546661
    p = (p * s + 0.11968763917684555) * s
    # The square of the upper bits is exact; the exponential would magnify its rounding.
    upper = (t.to(tl.int32, bitcast=True) & -4096).to(tl.float32, bitcast=True)
    rest = -0.5 * (t - upper) * (t + upper)
    tail = p * exp(-0.5 * upper * upper)
    tail = tail + tail * expm1(rest)
    value = tl.where(x < 0.0, tail, 1.0 - tail)
    return tl.where(x != x, x, value)


def ndtri(u: Any) -> Any:
    """The inverse of the standard normal distribution function, for u in [1e-14, 1 - 2**-24].

    Source: Moshier, Cephes, ``ndtri``.
    """
    upper = u > 0.86466471676338730811
    y = tl.where(upper, 1.0 - u, u)
    center = y - 0.5
    square = center * center
    p = -5.99633501014107895267e1 * square + 9.80010754185999661536e1
    p = p * square - 5.66762857469070293439e1
    p = p * square + 1.39312609387279679503e1
    p = p * square - 1.23916583867381258016
    q = square + 1.95448858338141759834
    q = q * square + 4.67627912898881538453
    q = q * square + 8.63602421390890590575e1
    q = q * square - 2.25462687854119370527e2
    q = q * square + 2.00260212380060660359e2
    q = q * square - 8.20372256168333339912e1
    q = q * square + 1.59056225126211695515e1
    q = q * square - 1.18331621121330003142
    middle = (center + center * (square * p / q)) * 2.50662827463100050242
    tail = _tail_quantile(tl.where(y > 0.13533528323661269189, 0.1, y))
    return tl.where(y > 0.13533528323661269189, middle, tl.where(upper, tail, -tail))


def _tail_quantile(y: Any) -> Any:
    """The distance from the middle beyond that a normal variable lies with probability y."""
    x = tl.sqrt(-2.0 * log(y))
    z = 1.0 / x
    p = 4.05544892305962419923 * z + 3.15251094599893866154e1
    p = p * z + 5.71628192246421288162e1
    p = p * z + 4.40805073893200834700e1
    p = p * z + 1.46849561928858024014e1
    p = p * z + 2.18663306850790267539
    p = p * z - 1.40256079171354495875e-1
    p = p * z - 3.50424626827848203418e-2
    p = p * z - 8.57456785154685413611e-4
    q = z + 1.57799883256466749731e1
    q = q * z + 4.53907635128879210584e1
    q = q * z + 4.13172038254672030440e1
    q = q * z + 1.50425385692907503408e1
    q = q * z + 2.50464946208309415979
    q = q * z - 1.42182922854787788574e-1
    q = q * z - 3.80806407691578277194e-2
    q = q * z - 9.33259480895457427372e-4
    return x - log(x) / x - z * p / q
