"""The stochastic gate by Yamada, Lindenbaum, Negahban & Kluger (2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from torch import Tensor

from l0func.distributions.elementwise import rectify
from l0func.distributions.formula_gate import FormulaGate
from l0func.distributions.settings import LARGEST_STRETCH, check_range, take_numbers
from l0func.kernels.formula import Formula, clipped, inside
from l0func.kernels.vocabulary import clip, exp, ndtr, ndtri


@dataclass(frozen=True)
class GaussianGate(FormulaGate):
    r"""A clipped normal variable; ``log_alpha`` is its mean :math:`\mu` before clipping.

    .. math:: z = \min(1, \max(0, \mu + \sigma\epsilon)), \quad \epsilon \sim N(0, 1)

    Source: Yamada, Lindenbaum, Negahban & Kluger (2020), arXiv:1810.04247. The test-time gate has
        :math:`\epsilon = 0`.

    Args:
        sigma: :math:`\sigma > 0`.

    Raises:
        TypeError: ``sigma`` is no number.
        ValueError: ``sigma`` is not positive and finite, or float32 cannot compute with it.

    Example:
        >>> import l0func as l0
        >>> import torch
        >>> l0.GaussianGate().prob_nonzero(torch.tensor([-0.5, 0.0, 0.5]))
        tensor([0.1587, 0.5000, 0.8413])
    """

    sigma: float = 0.5

    def __post_init__(self) -> None:
        take_numbers(self, "sigma")
        if not 0.0 < self.sigma < math.inf:
            raise ValueError(
                f"sigma, the width of the noise, must be positive and finite; got {self.sigma}."
            )
        check_range(self, "sigma", 1e-6, LARGEST_STRETCH)
        super().__post_init__()

    def _formula(self) -> Formula:
        return Formula(_means, _normal_draw, _gate_value, _normal_tails, (self.sigma,))

    def _published(self, log_alpha: Tensor) -> Tensor:
        return rectify(log_alpha)

    def _location(self, probability: float, t: float) -> float:
        return t - self.sigma * NormalDist().inv_cdf(probability)


def _means(la: Any, sigma: Any) -> Any:
    return la, la


def _normal_draw(u: Any, p: Any, q: Any, sigma: Any) -> Any:
    z = clipped(p + sigma * ndtri(u))
    return z, inside(z, 0.0 * z + 1.0)


def _gate_value(t: Any, sigma: Any) -> Any:
    return t


def _normal_tails(c: Any, p: Any, q: Any, sigma: Any) -> Any:
    # Beyond ±40 they are 0 or 1 in float64, and the slope is 0. The limits keep the second
    # derivative at infinity, -x times the slope, from being infinity times 0.
    x = clip((p - c) / sigma, -40.0, 40.0)
    return ndtr(x), ndtr(-x), exp(-0.5 * x * x) * (0.3989422804014327 / sigma)
