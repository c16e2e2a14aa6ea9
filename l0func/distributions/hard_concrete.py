"""The hard concrete gate of Louizos, Welling & Kingma (2018)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from l0func.distributions.base import GateDistribution, rectify
from l0func.distributions.quadrature import Rule, gauss_legendre


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
        ValueError: A limit does not leave room for exact zeros or ones, or the temperature is not positive.

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
        if not self.gamma < 0.0 < 1.0 < self.zeta:
            raise ValueError(
                "The stretch interval must strictly contain [0, 1], or exact zeros and ones "
                f"have no mass; got gamma={self.gamma}, zeta={self.zeta}."
            )
        if not 0.0 < self.temperature < math.inf:
            raise ValueError(f"The temperature must be positive and finite; got {self.temperature}. The paper's is 2/3.")
        super().__post_init__()

    def _bend(self, t: float | Tensor) -> float | Tensor:
        """β logit((t - γ)/(ζ - γ)), the logit of the draw that gives z = t at log_alpha 0."""
        s = (t - self.gamma) / (self.zeta - self.gamma)
        return self.temperature * (torch.logit(s) if isinstance(s, Tensor) else math.log(s / (1.0 - s)))

    def _nodes(self, size: int) -> Rule:
        # Nodes even in the logit of the draw: there the survival function is smooth for every stretch.
        low, high = (float(self._bend(0.0)) / self.temperature, math.log((1.0 - self.gamma) / (self.zeta - 1.0)))
        nodes, weights = gauss_legendre(size)
        draws = [1.0 / (1.0 + math.exp(-(low + (high - low) * node))) for node in nodes]
        width = self.zeta - self.gamma
        slopes = ((high - low) * width * s * (1.0 - s) for s in draws)
        return Rule(
            tuple(self.gamma + width * s for s in draws),
            tuple(weight * slope for weight, slope in zip(weights, slopes, strict=True)),
        )

    def _quantile(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        return rectify(self._concrete(u, log_alpha) * (self.zeta - self.gamma) + self.gamma)

    def _concrete(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        odds = (1.0 - u) / u
        if self.temperature != 2 / 3:
            return torch.sigmoid((log_alpha - odds.log()) / self.temperature)
        # For β = 2/3 a draw needs no log, and exp only once a gate. Beyond ±40 every draw is 0 or 1 and its derivative
        # is 0, so the clamp changes nothing but keeps the intermediate powers, and with them the gradients, finite.
        r = odds * torch.exp(-log_alpha.clamp(-40.0, 40.0))
        return 1.0 / (1.0 + r * r.sqrt())

    def _survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return torch.sigmoid(log_alpha - self._bend(t))

    def _cumulative(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return torch.sigmoid(self._bend(t) - log_alpha)

    def _published(self, log_alpha: Tensor) -> Tensor:
        return rectify(torch.sigmoid(log_alpha) * (self.zeta - self.gamma) + self.gamma)

    def _location(self, probability: float, t: float) -> float:
        return math.log((1.0 - probability) / probability) + float(self._bend(t))
