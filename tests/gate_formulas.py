"""Formulas for tests of kernels; together they use every word of the vocabulary."""

from __future__ import annotations

from typing import Any

from l0func.kernels.formula import Formula, clipped, inside
from l0func.kernels.vocabulary import exp, expm1, log, log1p, ndtr, ndtri, sqrt, where


def _odds(la: Any, temperature: Any, gamma: Any, zeta: Any) -> Any:
    odds = exp(-la)
    return odds, odds


def _draw_by_root(u: Any, p: Any, q: Any, temperature: Any, gamma: Any, zeta: Any) -> Any:
    r = (1.0 - u) / u * p
    odds = r * sqrt(r)
    s = 1.0 / (1.0 + odds)
    z = clipped(s * (zeta - gamma) + gamma)
    return z, inside(z, odds * s * s * ((zeta - gamma) / temperature))


def _draw_by_log(u: Any, p: Any, q: Any, temperature: Any, gamma: Any, zeta: Any) -> Any:
    odds = exp((log((1.0 - u) / u) + log(p)) / temperature)
    s = 1.0 / (1.0 + odds)
    z = clipped(s * (zeta - gamma) + gamma)
    return z, inside(z, odds * s * s * ((zeta - gamma) / temperature))


def _node_odds(t: Any, temperature: Any, gamma: Any, zeta: Any) -> Any:
    return exp(temperature * log((t - gamma) / (zeta - t)))


def _tails_of_odds(c: Any, p: Any, q: Any, temperature: Any, gamma: Any, zeta: Any) -> Any:
    survival = 1.0 / (1.0 + q * c)
    cumulative = q * c * survival
    return survival, cumulative, survival * cumulative


def _locations(la: Any, sigma: Any) -> Any:
    return la, la


def _draw_normal(u: Any, p: Any, q: Any, sigma: Any) -> Any:
    z = clipped(p + sigma * ndtri(u))
    return z, inside(z, 0.0 * z + 1.0)


def _value(t: Any, sigma: Any) -> Any:
    return t


def _normal_tails(c: Any, p: Any, q: Any, sigma: Any) -> Any:
    x = (p - c) / sigma
    return ndtr(x), ndtr(-x), exp(-0.5 * x * x) * (0.3989422804014327 / sigma)


def _shapes(la: Any, low: Any, high: Any) -> Any:
    return exp(0.5 * la), exp(-0.5 * la)


def _draw_kuma(u: Any, a: Any, b: Any, low: Any, high: Any) -> Any:
    log_rest = log1p(-u) / b
    log_x = _log1mexp(log_rest) / a
    x = exp(log_x)
    z = clipped(low + (high - low) * x)
    fall = log_rest * exp(log_rest) / expm1(log_rest)
    return z, inside(z, (high - low) * x * (fall / a - log_x) * 0.5)


def _log_value(t: Any, low: Any, high: Any) -> Any:
    return log((t - low) / (high - low))


def _kuma_tails(c: Any, a: Any, b: Any, low: Any, high: Any) -> Any:
    log_rest = _log1mexp(a * c)
    survival = exp(b * log_rest)
    fall = a * c * exp(a * c) / expm1(a * c)
    return survival, -expm1(b * log_rest), survival * b * (fall - log_rest) * 0.5


def _log1mexp(x: Any) -> Any:
    near = x > -0.6931471805599453
    close = where(near, x, 0.0 * x - 0.5)
    far = where(near, 0.0 * x - 1.0, x)
    return where(near, log(-expm1(close)), log1p(-exp(far)))


def _coin_odds(la: Any) -> Any:
    is_open = 1.0 / (1.0 + exp(-la))
    return 1.0 - is_open, is_open


def _coin(u: Any, p: Any, q: Any) -> Any:
    zero = 0.0 * u * p
    return where(u > p, zero + 1.0, zero), p * q + zero


def _any_value(t: Any) -> Any:
    return t


def _coin_tails(c: Any, p: Any, q: Any) -> Any:
    return q + 0.0 * c, p + 0.0 * c, p * q + 0.0 * c


FORMULAS = {
    "root": Formula(_odds, _draw_by_root, _node_odds, _tails_of_odds, (2 / 3, -0.1, 1.1)),
    "log": Formula(_odds, _draw_by_log, _node_odds, _tails_of_odds, (0.5, -0.2, 1.3)),
    "normal": Formula(_locations, _draw_normal, _value, _normal_tails, (0.5,)),
    "kuma": Formula(_shapes, _draw_kuma, _log_value, _kuma_tails, (-0.1, 1.1)),
    "coin": Formula(_coin_odds, _coin, _any_value, _coin_tails, ()),
}
