"""A gate that is 0 or 1 and nothing between."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from l0func.distributions.base import GateDistribution
from l0func.distributions.elementwise import differentiated
from l0func.internal.untyped import untyped


@dataclass(frozen=True)
class BernoulliGate(GateDistribution):
    r"""A coin with log-odds ``log_alpha``.

    .. math:: z = 1[u > \sigma(-\log\alpha)], \quad P(z = 1) = \sigma(\log\alpha)

    A step has no slope. Each draw gets the slope of its expectation,
    :math:`\sigma'(\log\alpha)`. This is the straight-through estimator: unbiased where the loss
    is linear in each gate, and biased elsewhere. :func:`l0func.arm` is unbiased everywhere. At
    test time a gate is open if it is likelier open than closed.

    Source: Bengio, Léonard & Courville (2013), arXiv:1308.3432 (straight-through); Li & Ji (2019),
        arXiv:1904.04432 (L0).

    Example:
        >>> BernoulliGate().prob_nonzero(torch.tensor([-3.0, 0.0, 3.0]))
        tensor([0.0474, 0.5000, 0.9526])
    """

    def derivatives(self, u: Tensor, prepared: Tensor, orders: Sequence[int]) -> list[Tensor]:
        """See :meth:`GateDistribution.derivatives`; from order 1 on, those of the expectation."""
        shape = untyped.broadcast_shapes(u.shape, prepared.shape)

        def of_order(order: int) -> Tensor:
            if order == 0:
                return _coin(u, prepared)
            of_expectation = differentiated(untyped.sigmoid, order, prepared)
            return of_expectation.expand(shape)

        return [of_order(order) for order in orders]

    def _quantile(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        mean = log_alpha.sigmoid()
        return _coin(u, log_alpha) + (mean - mean.detach())

    def _survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return log_alpha.sigmoid() + untyped.zeros_like(log_alpha * t)

    def _cumulative(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return (-log_alpha).sigmoid() + untyped.zeros_like(log_alpha * t)

    def _published(self, log_alpha: Tensor) -> Tensor:
        half = torch.full((), 0.5, dtype=log_alpha.dtype, device=log_alpha.device)
        return self._quantile(half, log_alpha)

    def _location(self, probability: float, t: float) -> float:
        return math.log1p(-probability) - math.log(probability)


def _coin(u: Tensor, log_alpha: Tensor) -> Tensor:
    return (u > (-log_alpha).sigmoid()).to(log_alpha.dtype)
