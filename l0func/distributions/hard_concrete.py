"""The hard concrete gate of Louizos, Welling & Kingma (2018)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from l0func.distributions import base
from l0func.distributions.base import GateDistribution, RawMoments, rectify
from l0func.distributions.quadrature import Quadrature, gauss_legendre


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
        ValueError: A limit does not leave room for exact zeros or ones, or the temperature is not
            positive.

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
            raise ValueError(
                f"The temperature must be positive and finite; got {self.temperature}. The "
                f"paper's is 2/3."
            )
        super().__post_init__()

    def _bend(self, t: float | Tensor) -> float | Tensor:
        """β logit((t - γ)/(ζ - γ)), the logit of the draw that gives z = t at log_alpha 0."""
        s = (t - self.gamma) / (self.zeta - self.gamma)
        return self.temperature * (
            torch.logit(s) if isinstance(s, Tensor) else math.log(s / (1.0 - s))
        )

    def _nodes(self, size: int) -> Quadrature:
        # Nodes even in the logit of the draw: there the survival function is smooth for every
        # stretch.
        low, high = (
            float(self._bend(0.0)) / self.temperature,
            math.log((1.0 - self.gamma) / (self.zeta - 1.0)),
        )
        nodes, weights = gauss_legendre(size)
        draws = [1.0 / (1.0 + math.exp(-(low + (high - low) * node))) for node in nodes]
        width = self.zeta - self.gamma
        slopes = ((high - low) * width * s * (1.0 - s) for s in draws)
        return Quadrature(
            tuple(self.gamma + width * s for s in draws),
            tuple(weight * slope for weight, slope in zip(weights, slopes, strict=True)),
        )

    def _quantile(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        return rectify(
            self._concrete(u, self.prepared(log_alpha)) * (self.zeta - self.gamma) + self.gamma
        )

    def prepared(self, log_alpha: Tensor) -> Tensor:
        r"""See :meth:`GateDistribution.prepared`: :math:`e^{-\\log\\alpha}` where β = 2/3."""
        # Beyond ±40 every draw is 0 or 1 and its derivative is 0, so the clamp changes nothing but
        # keeps the powers of the odds, and with them the gradients, finite.
        return torch.exp(-log_alpha.clamp(-40.0, 40.0)) if self.temperature == 2 / 3 else log_alpha

    def derivatives(self, u: Tensor, prepared: Tensor, orders: Sequence[int]) -> list[Tensor]:
        r"""See :meth:`GateDistribution.derivatives`.

        .. math:: z^{(k)} = (\zeta - \gamma)\, \sigma^{(k)}\bigl((\mathrm{logit}\,u + \log\alpha)/\beta\bigr) / \beta^k

        inside (0, 1).
        """
        s = self._concrete(u, prepared)
        width = self.zeta - self.gamma
        z = (s * width).add_(self.gamma).clamp_(0.0, 1.0)
        # 1 where the draw is open and not 1, else 0; torch.where takes ten times as long.
        between = (1.0 - z).mul_(z).sign_() if max(orders) > 0 else z
        return [
            z
            if order == 0
            else _sigmoid_derivative(s, order).mul_(between).mul_(width / self.temperature**order)
            for order in orders
        ]

    def _concrete(self, u: Tensor, prepared: Tensor) -> Tensor:
        odds = (1.0 - u).div_(u)
        if self.temperature != 2 / 3:
            return torch.sigmoid((prepared - odds.log()) / self.temperature)
        # For β = 2/3 a draw needs no log, and exp only once a gate.
        r = odds * prepared
        return (r * r.sqrt()).add_(1.0).reciprocal_()

    def _moments(self, la: Tensor) -> RawMoments:
        if not self._mild:
            return super()._moments(la)
        # With q = e^-la and c = e^bend(t), P(z > t) is 1 / (1 + c q) and P(z <= t) is c q / (1 + c
        # q): one exp for all nodes.
        q, zero = self._odds(la), torch.zeros_like(la)
        first, second, complement, complement_second = zero, zero, zero, zero
        for t, w, c in self._weighted_nodes(la.dtype):
            s = (q * c + 1.0).reciprocal()
            first, second = first + s * w, second + s * (2.0 * w * t)
            complement, complement_second = (
                complement + s * (w * c),
                complement_second + s * (2.0 * w * (1.0 - t) * c),
            )
        return RawMoments(first, second, q * complement, q * complement_second)

    def _moment_derivatives(self, order: int, log_alpha: Tensor) -> tuple[Tensor, ...]:
        if order > 0 or not self._mild or abs(self.gamma + self.zeta - 1.0) > 1e-12:
            return super()._moment_derivatives(order, log_alpha)
        la = log_alpha.reshape(-1)
        results = la.new_empty(4, la.numel())
        columns = la.new_tensor(self._weighted_nodes(la.dtype)).t().contiguous().unsqueeze(-1)
        # Held for all blocks: fresh memory costs more than what is computed in it.
        scratch = la.new_empty(2, columns.shape[1], min(base.GATES_IN_CACHE, la.numel()))
        for start in range(0, la.numel(), base.GATES_IN_CACHE):
            into = results[:, start : start + base.GATES_IN_CACHE]
            self._mirrored(
                la[start : start + base.GATES_IN_CACHE],
                columns,
                scratch[..., : into.shape[1]],
                into,
            )
        return tuple(result.reshape(log_alpha.shape) for result in results)

    def _mirrored(self, la: Tensor, columns: Tensor, scratch: Tensor, into: Tensor) -> None:
        """Mean, variance and their slopes, from gates below one half: 1 - z has the distribution
        of z at -log_alpha.
        """
        (t, w, c), (s, weighted) = columns, scratch
        mean, variance, slope, variance_slope = into
        q = self._odds(-la.abs())

        def total(weights: Tensor, result: Tensor) -> Tensor:
            return torch.sum(torch.mul(s, weights, out=weighted), 0, out=result)

        torch.mul(q, c, out=s).add_(1.0).reciprocal_()
        total(w, mean)
        total(2.0 * w * t, variance)
        s.mul_(s)
        total(w * c, slope).mul_(q)
        total(2.0 * w * t * c, variance_slope).mul_(q)
        sign = la.sign()
        variance_slope.addcmul_(mean, slope, value=-2.0).mul_(sign).neg_()
        variance.addcmul_(mean, mean, value=-1.0)
        # sign·(1/2 - mean) + 1/2 would lose the digits of a small mean.
        mean.addcmul_(sign.clamp_(min=0.0), 1.0 - 2.0 * mean)

    @property
    def _mild(self) -> bool:
        """Whether the odds of a draw at every node can be held beside those of any gate."""
        farthest = 1.0 - self.gamma, self.zeta, -self.gamma, self.zeta - 1.0
        return self.temperature * math.log(max(farthest) / min(farthest)) < 30.0

    def _odds(self, la: Tensor) -> Tensor:
        # Farther out the moments are 0 or 1 to this precision; nearer, the odds at every node are
        # finite.
        farthest = 600.0 if la.dtype == torch.float64 else 50.0
        return torch.exp(-la.clamp(-farthest, farthest))

    def _weighted_nodes(self, dtype: torch.dtype) -> list[tuple[float, float, float]]:
        return [
            (t, w, math.exp(float(self._bend(t))))
            for t, w in zip(*self._quadrature_for(dtype), strict=True)
        ]

    def _survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return torch.sigmoid(log_alpha - self._bend(t))

    def _cumulative(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return torch.sigmoid(self._bend(t) - log_alpha)

    def _published(self, log_alpha: Tensor) -> Tensor:
        return rectify(torch.sigmoid(log_alpha) * (self.zeta - self.gamma) + self.gamma)

    def _location(self, probability: float, t: float) -> float:
        return math.log((1.0 - probability) / probability) + float(self._bend(t))


def _sigmoid_derivative(s: Tensor, order: int) -> Tensor:
    """The derivative of some order of the logistic function where its value is ``s``."""
    # A polynomial in s: every derivative turns P(s) into P'(s) (s - s²).
    p = [0, 1]
    for _ in range(order):
        slope = [n * c for n, c in enumerate(p)][1:]
        p = [first - second for first, second in zip([0, *slope, 0], [0, 0, *slope], strict=True)]
    value = (s * p[-1]).add_(p[-2])
    for c in reversed(p[:-2]):
        value = value.mul_(s).add_(c)
    return value
