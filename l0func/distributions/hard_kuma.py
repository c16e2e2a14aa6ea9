"""The HardKuma gate by Bastings, Aziz & Titov (2019); here one location sets its two shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from l0func.distributions.base import GateDistribution
from l0func.distributions.elementwise import rectify
from l0func.distributions.settings import check_range, check_stretch, take_numbers

# Beyond this location every draw is 0 or 1 and every probability 0 or 1, in float64 too.
_FARTHEST = 60.0


@dataclass(frozen=True)
class HardKuma(GateDistribution):
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
        >>> HardKuma(1.0).prob_nonzero(torch.tensor([0.0]))
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

    def _shapes(self, log_alpha: Tensor) -> tuple[Tensor, Tensor]:
        """The two shapes a and b."""
        half = log_alpha.clamp(-_FARTHEST, _FARTHEST) / 2.0
        a = self.concentration * half.exp()
        b = self.concentration * (-half).exp()
        return a, b

    def _log_at(self, t: float | Tensor) -> float | Tensor:
        """The logarithm of the Kumaraswamy variable for a gate value t."""
        x = (t - self.low) / (self.high - self.low)
        return x.log() if isinstance(x, Tensor) else math.log(x)

    def _quantile(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        a, b = self._shapes(log_alpha)
        log_x = _log1mexp(torch.log1p(-u) / b) / a
        return self._rectified(log_x)

    def _rectified(self, log_x: Tensor) -> Tensor:
        return rectify(self.low + (self.high - self.low) * log_x.exp())

    def _log_survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        a, b = self._shapes(log_alpha)
        return b * _log1mexp(a * self._log_at(t))

    def _survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return self._log_survival(t, log_alpha).exp()

    def _cumulative(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return -torch.expm1(self._log_survival(t, log_alpha))

    def _published(self, log_alpha: Tensor) -> Tensor:
        closed, one = self._cumulative(0.0, log_alpha), self._survival(1.0, log_alpha)
        # Farther out the gate is 0 or 1, and the gamma functions of its shapes are too large to
        # subtract.
        log_mean = _log_mean(*self._shapes(log_alpha.clamp(-12.0, 12.0)))
        atom = (one > closed).to(log_alpha.dtype)
        is_between = 1.0 - closed - one > torch.maximum(closed, one)
        return torch.where(is_between, self._rectified(log_mean), atom)

    def _location(self, probability: float, t: float) -> float:
        log_x = float(self._log_at(t))
        low, high = -_FARTHEST, _FARTHEST
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


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0, accurate near 0 and far from it.

    Each branch gets a harmless argument where the other branch is used, so that all gradients
    are finite.
    """
    near = x > -math.log(2.0)
    close = torch.where(near, x, -0.5)
    far = torch.where(near, -1.0, x)
    log_close = (-torch.expm1(close)).log()
    log_far = torch.log1p(-far.exp())
    return torch.where(near, log_close, log_far)
