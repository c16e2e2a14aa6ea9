r"""Fast moments for the hard concrete gate: one exponential for each gate, none for the nodes.

A gate has the odds :math:`q = e^{-\log\alpha}` and a node t has the odds c. Then
:math:`P(z > t) = 1 / (1 + c q)` and :math:`P(z \le t) = c q / (1 + c q)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from l0func.distributions import blocks
from l0func.distributions.moments import RawMoments


class Node(NamedTuple):
    """One node in a quadrature."""

    t: float
    """A gate value in (0, 1)."""
    weight: float
    odds: float
    """The odds c for P(z <= t) at ``log_alpha`` 0."""


def raw_moments_by_odds(la: Tensor, nodes: Sequence[Node]) -> RawMoments:
    """Raw moments, in operations that torch can differentiate."""
    q, zero = _odds(la), torch.zeros_like(la)
    first, second, complement, complement_second = zero, zero, zero, zero
    for t, w, c in nodes:
        s = (q * c + 1.0).reciprocal()
        first = first + s * w
        second = second + s * (2.0 * w * t)
        complement = complement + s * (w * c)
        factor = 2.0 * w * (1.0 - t) * c
        complement_second = complement_second + s * factor
    return RawMoments(first, second, q * complement, q * complement_second)


def mirrored_moments(log_alpha: Tensor, nodes: Sequence[Node]) -> tuple[Tensor, ...]:
    """Mean, variance and their slopes for a symmetric stretch, in blocks that fit the cache.

    Args:
        log_alpha: Locations, any shape.
        nodes: The quadrature.

    Returns:
        Mean, variance, and their slopes in the same order; four tensors like ``log_alpha``.
    """
    la = log_alpha.reshape(-1)
    results = la.new_empty(4, la.numel())
    columns = la.new_tensor(nodes).t().contiguous().unsqueeze(-1)
    size = blocks.GATES_IN_CACHE
    # One scratch for all blocks: fresh memory costs more than the arithmetic.
    scratch = la.new_empty(2, len(nodes), min(size, la.numel()))
    for start in range(0, la.numel(), size):
        block = slice(start, start + size)
        into = results[:, block]
        _write_mirrored(la[block], columns, scratch[..., : into.shape[1]], into)
    return tuple(result.reshape(log_alpha.shape) for result in results)


def _write_mirrored(la: Tensor, columns: Tensor, scratch: Tensor, into: Tensor) -> None:
    """Write mean, variance and their slopes for one block into ``into``.

    1 - z has the distribution of z at ``-log_alpha``. So a gate with a mean above one half is
    computed from its mirror image, and no small number is lost in a difference.
    """
    (t, w, c), (s, weighted) = columns, scratch
    mean, variance, slope, variance_slope = into
    q = _odds(-la.abs())

    def total(weights: Tensor, result: Tensor) -> Tensor:
        torch.mul(s, weights, out=weighted)
        return torch.sum(weighted, 0, out=result)

    # s is P(z > t) at every node, and then its square.
    torch.mul(q, c, out=s).add_(1.0).reciprocal_()
    total(w, mean)
    # `variance` and `variance_slope` hold the second moment and its slope at first.
    total(2.0 * w * t, variance)
    s.mul_(s)
    total(w * c, slope).mul_(q)
    total(2.0 * w * t * c, variance_slope).mul_(q)
    sign = la.sign()
    variance_slope.addcmul_(mean, slope, value=-2.0).mul_(sign).neg_()
    variance.addcmul_(mean, mean, value=-1.0)
    # sign·(1/2 - mean) + 1/2 would lose the digits of a small mean.
    mean.addcmul_(sign.clamp_(min=0.0), 1.0 - 2.0 * mean)


def _odds(la: Tensor) -> Tensor:
    # Beyond this location the moments are 0 or 1 to the dtype's precision; before it, the odds at
    # every node are finite.
    farthest = 600.0 if la.dtype == torch.float64 else 50.0
    return torch.exp(-la.clamp(-farthest, farthest))
