"""The formulas of the gates' papers in mpmath, with as many digits as its context has."""

from __future__ import annotations

from functools import cache

import mpmath as mp

import l0func as l0


def survival(d, t, la):
    """P(z > t) for t in [0, 1)."""
    if isinstance(d, l0.HardConcrete):
        gamma, zeta = mp.mpf(d.gamma), mp.mpf(d.zeta)
        bend = mp.mpf(d.temperature) * mp.log((t - gamma) / (zeta - t))
        return 1 / (1 + mp.exp(bend - la))
    if isinstance(d, l0.GaussianGate):
        return mp.erfc((t - la) / mp.mpf(d.sigma) / mp.sqrt(2)) / 2
    if isinstance(d, l0.BernoulliGate):
        return 1 / (1 + mp.exp(-la))
    assert isinstance(d, l0.HardKuma)
    scale, low, high = mp.mpf(d.concentration), mp.mpf(d.low), mp.mpf(d.high)
    a, b = scale * mp.exp(la / 2), scale * mp.exp(-la / 2)
    return mp.exp(b * mp.log1p(-(((t - low) / (high - low)) ** a)))


def drawn(d, u, la):
    """The gate at probability u."""
    u = mp.mpf(u)
    if isinstance(d, l0.HardConcrete):
        s = 1 / (1 + mp.exp(-(mp.log(u) - mp.log1p(-u) + la) / mp.mpf(d.temperature)))
        z = s * (mp.mpf(d.zeta) - mp.mpf(d.gamma)) + mp.mpf(d.gamma)
    elif isinstance(d, l0.GaussianGate):
        z = la + mp.mpf(d.sigma) * mp.sqrt(2) * mp.erfinv(2 * u - 1)
    elif isinstance(d, l0.BernoulliGate):
        z = mp.mpf(u > 1 / (1 + mp.exp(la)))
    else:
        scale, low, high = mp.mpf(d.concentration), mp.mpf(d.low), mp.mpf(d.high)
        a, b = scale * mp.exp(la / 2), scale * mp.exp(-la / 2)
        z = low + (high - low) * (1 - (1 - u) ** (1 / b)) ** (1 / a)
    return min(mp.mpf(1), max(mp.mpf(0), z))


@cache
def moment(d, location, order):
    """E[z^order], the integral of the survival function with weight order t^(order - 1)."""
    la = mp.mpf(location)
    points = [0, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 1]
    return mp.quad(lambda t: order * t ** (order - 1) * survival(d, t, la), points)
