"""A gate that is 0 or 1 and nothing between."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from l0func.distributions.formula_gate import FormulaGate
from l0func.kernels.formula import Formula
from l0func.kernels.vocabulary import clip, exp, where


@dataclass(frozen=True)
class BernoulliGate(FormulaGate):
    r"""A coin with log-odds ``log_alpha``.

    .. math:: z = 1[u > \sigma(-\log\alpha)], \quad P(z = 1) = \sigma(\log\alpha)

    A step has no slope. Each draw gets the slope of its expectation,
    :math:`\sigma'(\log\alpha)`. This is the straight-through estimator: unbiased where the loss
    is linear in each gate, and biased elsewhere. :func:`l0func.arm` is unbiased everywhere. At
    test time a gate is open if it is likelier open than closed.

    Source: Bengio, Léonard & Courville (2013), arXiv:1308.3432 (straight-through); Li & Ji (2019),
        arXiv:1904.04432 (L0).

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> l0.BernoulliGate().prob_nonzero(torch.tensor([-3.0, 0.0, 3.0]))
        tensor([0.0474, 0.5000, 0.9526])
    """

    def _formula(self) -> Formula:
        return Formula(_probabilities, _coin, _any_value, _coin_tails, ())

    def _quantile(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        mean = self._survival(0.0, log_alpha)
        return super()._quantile(u, log_alpha) + (mean - mean.detach())

    def _published(self, log_alpha: Tensor) -> Tensor:
        half = torch.full((), 0.5, dtype=log_alpha.dtype, device=log_alpha.device)
        return self._quantile(half, log_alpha)

    def _location(self, probability: float, t: float) -> float:
        return math.log1p(-probability) - math.log(probability)


def _probabilities(la: Any) -> Any:
    """P(z = 0) and P(z = 1)."""
    odds = exp(-clip(la, -85.0, 85.0))
    is_open = 1.0 / (1.0 + odds)
    return odds * is_open, is_open


def _coin(u: Any, p: Any, q: Any) -> Any:
    zero = 0.0 * u * p
    return where(u > p, zero + 1.0, zero), p * q + zero


def _any_value(t: Any) -> Any:
    return t


def _coin_tails(c: Any, p: Any, q: Any) -> Any:
    # The same for every gate value c; one that is a tensor gives its shape.
    return q + 0.0 * c, p + 0.0 * c, p * q + 0.0 * c
