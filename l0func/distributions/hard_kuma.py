"""The HardKuma gate by Bastings, Aziz & Titov (2019); here one location sets its two shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from l0func.distributions.elementwise import rectify
from l0func.distributions.formula_gate import FormulaGate
from l0func.distributions.settings import check_range, check_stretch, take_numbers
from l0func.kernels.formula import Formula, clipped, inside
from l0func.kernels.vocabulary import clip, exp, expm1, log, log1p, where


@dataclass(frozen=True)
class HardKuma(FormulaGate):
    r"""A stretched and rectified Kumaraswamy variable.

    .. math:: x = (1 - (1 - u)^{1/b})^{1/a}, \quad
        z = \min(1, \max(0, l + (h - l) x)), \quad u \sim U(0, 1)

    The paper has two shapes; here one location :math:`\log\alpha` moves both, :math:`a = \kappa
    e^{\log\alpha / 2}` and :math:`b = \kappa e^{-\log\alpha / 2}`. The distribution function
    :math:`1 - (1 - x^a)^b` falls as :math:`a` grows and as :math:`b` shrinks, so a larger location
    makes the gate stochastically larger.

    Source: Bastings, Aziz & Titov (2019), arXiv:1905.08160. Their test-time gate is the most
    probable of 0, 1 and between; for "between" it is the mean of the Kumaraswamy variable, here
    stretched and rectified.

    Args:
        concentration: :math:`\kappa > 0`; below 1 the draws gather at 0 and 1.
        low: Lower stretch limit, below 0.
        high: Upper stretch limit, above 1.

    Raises:
        TypeError: A setting is no number.
        ValueError: A limit does not leave room for exact zeros or ones, or the concentration is
            not positive and finite; or float32 cannot compute with them.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> l0.HardKuma(1.0).prob_nonzero(torch.tensor([0.0]))
        tensor([0.9167])
    """

    concentration: float = 0.5
    low: float = -0.1
    high: float = 1.1

    def __post_init__(self) -> None:
        take_numbers(self, "concentration", "low", "high")
        check_stretch(self, "low", "high")
        if not 0.0 < self.concentration < math.inf:
            raise ValueError(
                f"The concentration must be positive and finite; got {self.concentration}."
            )
        check_range(self, "concentration", 1e-3, 1e3)
        super().__post_init__()

    def _formula(self) -> Formula:
        settings = (self.concentration, self.low, self.high)
        return Formula(_shapes, _kuma_draw, _log_at, _kuma_tails, settings)

    def _published(self, log_alpha: Tensor) -> Tensor:
        closed, one = self._cumulative(0.0, log_alpha), self._survival(1.0, log_alpha)
        # Farther out the gate is 0 or 1, and the gamma functions of its shapes are too large to
        # subtract.
        shapes = _shapes(log_alpha.clamp(-12.0, 12.0), *self.written.settings)
        mean = self.low + (self.high - self.low) * _log_mean(*shapes).exp()
        atom = (one > closed).to(log_alpha.dtype)
        is_between = 1.0 - closed - one > torch.maximum(closed, one)
        return torch.where(is_between, rectify(mean), atom)

    def _location(self, probability: float, t: float) -> float:
        log_x = math.log((t - self.low) / (self.high - self.low))
        low, high = -60.0, 60.0
        # P(z <= t) falls as the location grows. 80 bisections find the location to the last bit.
        for _ in range(80):
            middle = (low + high) / 2.0
            if self._probability(middle, log_x) > probability:
                low = middle
            else:
                high = middle
        return (low + high) / 2.0

    def _probability(self, location: float, log_x: float) -> float:
        """The distribution function at one location, in Python's floats."""
        a = self.concentration * math.exp(location / 2.0)
        b = self.concentration * math.exp(-location / 2.0)
        log_tail = math.log(-math.expm1(a * log_x))
        return -math.expm1(b * log_tail)


def _log_mean(a: Tensor, b: Tensor) -> Tensor:
    """The logarithm of a Kumaraswamy variable's mean, b Γ(1 + 1/a) Γ(b) / Γ(1 + 1/a + b)."""
    c = 1.0 + 1.0 / a
    return b.log() + torch.lgamma(c) + torch.lgamma(b) - torch.lgamma(c + b)


def _shapes(la: Any, concentration: Any, low: Any, high: Any) -> Any:
    """The two shapes a and b."""
    # Beyond ±60 every draw is 0 or 1 and every probability 0 or 1, in float64 too.
    half = clip(la, -60.0, 60.0) / 2.0
    return concentration * exp(half), concentration * exp(-half)


def _kuma_draw(u: Any, a: Any, b: Any, concentration: Any, low: Any, high: Any) -> Any:
    log_rest = log1p(-u) / b
    log_x = _log1mexp(log_rest) / a
    x = exp(log_x)
    z = clipped(low + (high - low) * x)
    slope = (high - low) * x * (_slope_log1mexp(log_rest) / a - log_x) * 0.5
    return z, inside(z, slope)


def _log_at(t: Any, concentration: Any, low: Any, high: Any) -> Any:
    """The logarithm of the Kumaraswamy variable for a gate value t."""
    return log((t - low) / (high - low))


def _kuma_tails(c: Any, a: Any, b: Any, concentration: Any, low: Any, high: Any) -> Any:
    log_rest = _log1mexp(a * c)
    log_survival = b * log_rest
    survival = exp(log_survival)
    slope = survival * b * (_slope_log1mexp(a * c) - log_rest) * 0.5
    return survival, -expm1(log_survival), slope


def _log1mexp(x: Any) -> Any:
    """log(1 - exp(x)) for x < 0, accurate near 0 and far from it."""
    # Each branch gets a harmless argument where the other is used, so that all gradients are
    # finite.
    near = x > -0.6931471805599453
    close = where(near, x, -0.5)
    far = where(near, -1.0, x)
    return where(near, log(-expm1(close)), log1p(-exp(far)))


def _slope_log1mexp(x: Any) -> Any:
    """The slope of ``_log1mexp`` times x: a number in (0, 1)."""
    return x * exp(x) / expm1(x)
