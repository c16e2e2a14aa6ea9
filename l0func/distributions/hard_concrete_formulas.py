r"""The hard concrete gate as formulas: two for a draw, two for its tails.

With the odds :math:`e^{-\log\alpha}` a draw for β = 2/3 needs a square root and neither log nor
exp. A gate value t has odds too, so its tail probabilities need no exp for each gate and value.
"""

from __future__ import annotations

from typing import Any

from l0func.kernels.formula import Formula, clipped, inside
from l0func.kernels.vocabulary import clip, exp, log, sqrt


def hard_concrete_formula(temperature: float, gamma: float, zeta: float, mild: bool) -> Formula:
    """The formula for some settings.

    Args:
        temperature: β.
        gamma: The lower stretch limit.
        zeta: The upper stretch limit.
        mild: Whether the odds of every gate value fit in a float32.
    """
    settings = (temperature, gamma, zeta)
    if temperature == 2 / 3:
        return Formula(_odds_twice, _draw_by_root, _node_odds, _tails_of_odds, settings)
    if mild:
        return Formula(_location_and_odds, _draw_by_log, _node_odds, _tails_of_odds, settings)
    return Formula(_locations, _draw_by_log, _node_logit, _tails_of_logit, settings)


def _odds_twice(la: Any, temperature: Any, gamma: Any, zeta: Any) -> Any:
    # The limits keep all powers finite, and so the gradients. Beyond ±40 every draw is 0 or 1.
    return exp(-clip(la, -40.0, 40.0)), exp(-clip(la, -85.0, 85.0))


def _location_and_odds(la: Any, temperature: Any, gamma: Any, zeta: Any) -> Any:
    return la, exp(-clip(la, -85.0, 85.0))


def _locations(la: Any, temperature: Any, gamma: Any, zeta: Any) -> Any:
    return la, la


def _draw_by_root(u: Any, p: Any, q: Any, temperature: Any, gamma: Any, zeta: Any) -> Any:
    r = (1.0 - u) / u * p
    odds = r * sqrt(r)
    s = 1.0 / (1.0 + odds)
    z = clipped(s * (zeta - gamma) + gamma)
    return z, inside(z, odds * s * s * ((zeta - gamma) / temperature))


def _draw_by_log(u: Any, p: Any, q: Any, temperature: Any, gamma: Any, zeta: Any) -> Any:
    logit = (p - log((1.0 - u) / u)) / temperature
    # Beyond ±80 every draw is 0 or 1, and the exponential would overflow.
    odds = exp(-clip(logit, -80.0, 80.0))
    s = 1.0 / (1.0 + odds)
    z = clipped(s * (zeta - gamma) + gamma)
    return z, inside(z, odds * s * s * ((zeta - gamma) / temperature))


def _node_odds(t: Any, temperature: Any, gamma: Any, zeta: Any) -> Any:
    return exp(temperature * log((t - gamma) / (zeta - t)))


def _node_logit(t: Any, temperature: Any, gamma: Any, zeta: Any) -> Any:
    return temperature * log((t - gamma) / (zeta - t))


def _tails_of_odds(c: Any, p: Any, q: Any, temperature: Any, gamma: Any, zeta: Any) -> Any:
    odds = clip(q * c, 0.0, 1e37)
    survival = 1.0 / (1.0 + odds)
    cumulative = odds * survival
    return survival, cumulative, survival * cumulative


def _tails_of_logit(c: Any, p: Any, q: Any, temperature: Any, gamma: Any, zeta: Any) -> Any:
    odds = exp(clip(c - p, -80.0, 80.0))
    survival = 1.0 / (1.0 + odds)
    cumulative = odds * survival
    return survival, cumulative, survival * cumulative
