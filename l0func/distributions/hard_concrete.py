"""The hard concrete gate by Louizos, Welling & Kingma (2018)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from l0func.distributions.elementwise import logistic, rectify
from l0func.distributions.formula_gate import FormulaGate
from l0func.distributions.hard_concrete_formulas import hard_concrete_formula
from l0func.distributions.quadrature import Quadrature, gauss_legendre
from l0func.distributions.settings import check_range, check_stretch, take_numbers
from l0func.kernels.formula import Formula


@dataclass(frozen=True)
class HardConcrete(FormulaGate):
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
        >>> import l0func as l0
        >>> import torch
        >>> l0.HardConcrete().prob_nonzero(torch.tensor([-3.0, 0.0, 3.0]))
        tensor([0.1976, 0.8318, 0.9900])
        >>> l0.HardConcrete().mean(torch.tensor([0.0]))
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

    def _bend(self, t: float) -> float:
        """β logit((t - γ)/(ζ - γ)): the logit of the u that draws z = t at log_alpha 0."""
        return self.temperature * math.log((t - self.gamma) / (self.zeta - t))

    def _nodes(self, size: int) -> Quadrature:
        # Gauss-Legendre in logit(s), where the survival function is smooth for every stretch.
        low = self._bend(0.0) / self.temperature
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

    def _formula(self) -> Formula:
        farthest = 1.0 - self.gamma, self.zeta, -self.gamma, self.zeta - 1.0
        spread = math.log(max(farthest) / min(farthest))
        mild = self.temperature * spread < 30.0
        return hard_concrete_formula(self.temperature, self.gamma, self.zeta, mild)

    def _published(self, log_alpha: Tensor) -> Tensor:
        s = logistic(log_alpha)
        return rectify((s * (self.zeta - self.gamma)).add_(self.gamma))

    def _location(self, probability: float, t: float) -> float:
        open_odds = (1.0 - probability) / probability
        return math.log(open_odds) + self._bend(t)
