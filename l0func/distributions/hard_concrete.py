"""The hard concrete gate by Louizos, Welling & Kingma (2018)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from l0func.distributions.base import GateDistribution
from l0func.distributions.elementwise import rectify
from l0func.distributions.hard_concrete_moments import Node, mirrored_moments, raw_moments_by_odds
from l0func.distributions.moments import RawMoments
from l0func.distributions.quadrature import Quadrature, gauss_legendre
from l0func.distributions.settings import check_range, check_stretch, take_numbers
from l0func.kernels.formula import Formula, clipped, inside
from l0func.kernels.vocabulary import exp, sqrt, where


@dataclass(frozen=True)
class HardConcrete(GateDistribution):
    r"""A stretched and rectified binary concrete variable.

    .. math:: s = \sigma\bigl((\mathrm{logit}\,u + \log\alpha) / \beta\bigr), \quad
        z = \min(1, \max(0, s(\zeta - \gamma) + \gamma)), \quad u \sim U(0, 1)

    Source: Louizos, Welling & Kingma (2018), arXiv:1712.01312, Eqs. 10-13.

    Args:
        temperature: :math:`\beta > 0`; below 1 the draws gather at 0 and 1.
        gamma: Lower stretch limit, below 0.
        zeta: Upper stretch limit, above 1.

    Raises:
        TypeError: A setting is no number.
        ValueError: A limit does not leave room for exact zeros or ones, or the temperature is not
            positive and finite; or float32 cannot compute with them.

    Example:
        >>> HardConcrete().prob_nonzero(torch.tensor([-3.0, 0.0, 3.0]))
        tensor([0.1976, 0.8318, 0.9900])
        >>> HardConcrete().mean(torch.tensor([0.0]))
        tensor([0.5000])
    """

    temperature: float = 2 / 3
    gamma: float = -0.1
    zeta: float = 1.1

    def __post_init__(self) -> None:
        take_numbers(self, "temperature", "gamma", "zeta")
        check_stretch(self, "gamma", "zeta")
        if not 0.0 < self.temperature < math.inf:
            raise ValueError(
                f"The temperature must be positive and finite; got {self.temperature}. The "
                f"paper's is 2/3."
            )
        check_range(self, "temperature", 1e-6)
        super().__post_init__()

    @property
    def formula(self) -> Formula | None:
        """See :attr:`GateDistribution.formula`; for the paper's temperature."""
        if self.temperature != 2 / 3:
            return None
        settings = self.temperature, self.gamma, self.zeta
        return Formula(_prepared, _draw, _node, _tails, settings)

    def _bend(self, t: float | Tensor) -> float | Tensor:
        """β logit((t - γ)/(ζ - γ)): the logit of the u that draws z = t at log_alpha 0."""
        s = (t - self.gamma) / (self.zeta - self.gamma)
        logit = torch.logit(s) if isinstance(s, Tensor) else math.log(s / (1.0 - s))
        return self.temperature * logit

    def _nodes(self, size: int) -> Quadrature:
        # Gauss-Legendre in logit(s), where the survival function is smooth for every stretch.
        low = float(self._bend(0.0)) / self.temperature
        high = math.log((1.0 - self.gamma) / (self.zeta - 1.0))
        width = self.zeta - self.gamma
        nodes: list[float] = []
        weights: list[float] = []
        for node, weight in zip(*gauss_legendre(size), strict=True):
            logit = low + (high - low) * node
            s = 1.0 / (1.0 + math.exp(-logit))
            slope = (high - low) * width * s * (1.0 - s)
            nodes.append(self.gamma + width * s)
            weights.append(weight * slope)
        return Quadrature(tuple(nodes), tuple(weights))

    def _quantile(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        return self._rectified(self._concrete(u, self.prepared(log_alpha)))

    def _rectified(self, s: Tensor) -> Tensor:
        return rectify(s * (self.zeta - self.gamma) + self.gamma)

    def prepared(self, log_alpha: Tensor) -> Tensor:
        r"""See :meth:`GateDistribution.prepared`: :math:`e^{-\log\alpha}` for β = 2/3."""
        # The clamp keeps the powers of the odds finite, and so the gradients. It changes no draw:
        # beyond ±40 every draw is 0 or 1, and its derivative is 0.
        if self.temperature != 2 / 3:
            return log_alpha
        return torch.exp(-log_alpha.clamp(-40.0, 40.0))

    def derivatives(self, u: Tensor, prepared: Tensor, orders: Sequence[int]) -> list[Tensor]:
        r"""See :meth:`GateDistribution.derivatives`.

        .. math:: z^{(k)} = (\zeta - \gamma)\,
            \sigma^{(k)}\bigl((\mathrm{logit}\,u + \log\alpha)/\beta\bigr) / \beta^k

        inside (0, 1).
        """
        s = self._concrete(u, prepared)
        width = self.zeta - self.gamma
        z = (s * width).add_(self.gamma).clamp_(0.0, 1.0)
        # 1 where the draw is open and not 1, else 0; torch.where takes ten times as long.
        between = (1.0 - z).mul_(z).sign_() if max(orders) > 0 else z

        def of_order(order: int) -> Tensor:
            if order == 0:
                return z
            slope = _sigmoid_derivative(s, order).mul_(between)
            return slope.mul_(width / self.temperature**order)

        return [of_order(order) for order in orders]

    def _concrete(self, u: Tensor, prepared: Tensor) -> Tensor:
        odds = (1.0 - u).div_(u)
        if self.temperature != 2 / 3:
            return torch.sigmoid((prepared - odds.log()) / self.temperature)
        # For β = 2/3 a draw needs neither log nor exp; `prepared` took one exp for each gate.
        r = odds * prepared
        return (r * r.sqrt()).add_(1.0).reciprocal_()

    def _moments(self, la: Tensor, quadrature: Quadrature) -> RawMoments:
        if not self._mild:
            return super()._moments(la, quadrature)
        return raw_moments_by_odds(la, self._nodes_with_odds(quadrature))

    def _moment_derivatives(self, order: int, log_alpha: Tensor) -> tuple[Tensor, ...]:
        symmetric = abs(self.gamma + self.zeta - 1.0) <= 1e-12
        if order > 0 or not self._mild or not symmetric:
            return super()._moment_derivatives(order, log_alpha)
        quadrature = self.quadratures.of(log_alpha.dtype)
        return mirrored_moments(log_alpha, self._nodes_with_odds(quadrature))

    @property
    def _mild(self) -> bool:
        """Whether every node's odds times every gate's odds fits in a float."""
        farthest = 1.0 - self.gamma, self.zeta, -self.gamma, self.zeta - 1.0
        spread = math.log(max(farthest) / min(farthest))
        return self.temperature * spread < 30.0

    def _nodes_with_odds(self, quadrature: Quadrature) -> list[Node]:
        nodes: list[Node] = []
        for t, weight in zip(*quadrature, strict=True):
            odds = math.exp(float(self._bend(t)))
            nodes.append(Node(t, weight, odds))
        return nodes

    def _survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return torch.sigmoid(log_alpha - self._bend(t))

    def _cumulative(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return torch.sigmoid(self._bend(t) - log_alpha)

    def _published(self, log_alpha: Tensor) -> Tensor:
        return self._rectified(torch.sigmoid(log_alpha))

    def _location(self, probability: float, t: float) -> float:
        open_odds = (1.0 - probability) / probability
        return math.log(open_odds) + float(self._bend(t))


def _sigmoid_derivative(s: Tensor, order: int) -> Tensor:
    """The ``order``-th derivative of the logistic function, from its value ``s``."""
    p = _sigmoid_polynomial(order)
    # Horner's rule, in place.
    value = (s * p[-1]).add_(p[-2])
    for c in reversed(p[:-2]):
        value = value.mul_(s).add_(c)
    return value


def _sigmoid_polynomial(order: int) -> list[int]:
    """The derivative as a polynomial in s: its coefficients, lowest power first."""
    p = [0, 1]
    for _ in range(order):
        # A further derivative turns P(s) into P'(s) (s - s²).
        slope = [n * c for n, c in enumerate(p)][1:]
        times_s, times_s_squared = [0, *slope, 0], [0, 0, *slope]
        p = [a - b for a, b in zip(times_s, times_s_squared, strict=True)]
    return p


def _prepared(la: Any, temperature: Any, gamma: Any, zeta: Any) -> Any:
    near = where(la > 40.0, 40.0, where(la < -40.0, -40.0, la))
    far = where(la > 85.0, 85.0, where(la < -85.0, -85.0, la))
    return exp(-near), exp(-far)


def _draw(u: Any, p: Any, q: Any, temperature: Any, gamma: Any, zeta: Any) -> Any:
    r = (1.0 - u) / u * p
    s = 1.0 / (1.0 + r * sqrt(r))
    y = s * (zeta - gamma) + gamma
    slope = s * (1.0 - s) * ((zeta - gamma) / temperature)
    return clipped(y), inside(y, slope)


def _node(t: Any, temperature: Any, gamma: Any, zeta: Any) -> Any:
    return ((t - gamma) / (zeta - t)) ** temperature


def _tails(c: Any, p: Any, q: Any, temperature: Any, gamma: Any, zeta: Any) -> Any:
    r = q * c
    s = 1.0 / (1.0 + r)
    other = where(r > 1.0, 1.0 - s, r * s)
    return s, other, s * other
