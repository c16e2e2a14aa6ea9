"""Moments by quadrature: a gate's survival function, integrated.

:class:`GateDistribution` finds its two quadratures here, once, and integrates with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from l0func.distributions.quadrature import Quadrature, converged

LEVELS = (1e-4, 1e-2, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999)
THRESHOLDS = (0.0, 0.1, 0.5, 0.9, 0.999)
"""The search tests the locations where P(z <= t) is a level, for each level and threshold t."""


class RawMoments(NamedTuple):
    """Raw moments for a gate z and its complement 1 - z."""

    mean: Tensor
    second: Tensor
    complement_mean: Tensor
    complement_second: Tensor


@dataclass(frozen=True)
class Quadratures:
    """The two quadratures that one distribution needs.

    Args:
        double: Integrates the moments to 1e-11 for every location, for float64.
        single: Integrates them to 1e-7, the precision of float32.
    """

    double: Quadrature
    single: Quadrature

    def of(self, dtype: torch.dtype) -> Quadrature:
        """The quadrature for a dtype."""
        return self.double if dtype == torch.float64 else self.single


MomentFunction = Callable[[Tensor, Quadrature], RawMoments]
"""``(log_alpha, quadrature)`` to the raw moments."""


def find_quadratures(
    name: str,
    location: Callable[[float, float], float],
    nodes: Callable[[int], Quadrature],
    moments: MomentFunction,
) -> Quadratures:
    """The smallest two quadratures, for float64 and float32, that larger ones confirm.

    Args:
        name: The distribution, for the error message.
        location: ``(probability, t)`` to a location that makes P(z <= t) that probability.
        nodes: A function from a size to a quadrature.
        moments: A function that integrates the moments by a quadrature.

    Raises:
        ValueError: Quadratures with up to 512 nodes do not agree on the moments.
    """
    # The survival functions bend most between these locations.
    locations = [location(level, t) for level in LEVELS for t in THRESHOLDS]
    log_alpha = torch.tensor(locations, dtype=torch.float64)

    def evaluate(size: int) -> Tensor:
        return torch.stack(moments(log_alpha, nodes(size)))

    sizes = [converged(evaluate, tolerance) for tolerance in (1e-11, 1e-7)]
    found = [nodes(size) for size in sizes if size is not None]
    if len(found) < len(sizes) and converged(evaluate, 1e-5) is not None:
        raise ValueError(
            f"The moments of {name} need more than 512 quadrature nodes for the precision of "
            "float64: they agree to 1e-5 and not to 1e-11. Either a function computes in float32 "
            "somewhere (compute in log_alpha.dtype), or the survival function bends sharply "
            "(choose milder settings)."
        )
    if len(found) < len(sizes):
        raise ValueError(
            f"The moments of {name} need more than 512 quadrature nodes; its survival "
            f"function is close to a step. "
            "Choose a less extreme temperature or wider stretch limits."
        )
    return Quadratures(*found)


def integral(
    quadrature: Quadrature, value: Callable[[float], Tensor], factor: Callable[[float], float]
) -> Tensor:
    """``factor(t) * value(t)`` integrated over t in [0, 1]."""
    # One node at a time, so that memory holds one gate vector and not one for each node.
    total: Tensor | float = 0.0
    for t, weight in zip(*quadrature, strict=True):
        total = total + (weight * factor(t)) * value(t)
    assert isinstance(total, Tensor)
    return total


def first_moment(quadrature: Quadrature, tail: Callable[[float], Tensor]) -> Tensor:
    r""":math:`E[z] = \int_0^1 P(z > t)\, dt`, from the tail :math:`P(z > t)`."""
    return integral(quadrature, tail, _one)


def second_moment(quadrature: Quadrature, tail: Callable[[float], Tensor]) -> Tensor:
    r""":math:`E[z^2] = \int_0^1 2t\, P(z > t)\, dt`, from the tail :math:`P(z > t)`."""
    return integral(quadrature, tail, _twice)


def raw_moments(
    quadrature: Quadrature,
    survival: Callable[[float], Tensor],
    cumulative: Callable[[float], Tensor],
) -> RawMoments:
    """Moments for z from P(z > t), for 1 - z from P(z <= t): neither cancels."""
    mean = first_moment(quadrature, survival)
    second = second_moment(quadrature, survival)
    complement_mean = first_moment(quadrature, cumulative)
    complement_second = integral(quadrature, cumulative, _twice_from_one)
    return RawMoments(mean, second, complement_mean, complement_second)


def mean_and_variance(m: RawMoments) -> tuple[Tensor, Tensor]:
    """Mean and variance; the variance comes from z or from 1 - z, whichever mean is smaller."""
    of_gate = m.second - m.mean**2
    of_complement = m.complement_second - m.complement_mean**2
    variance = torch.where(m.mean < 0.5, of_gate, of_complement)
    return m.mean.clamp(max=1.0), variance.clamp(min=0.0)


def _one(t: float) -> float:
    return 1.0


def _twice(t: float) -> float:
    return 2.0 * t


def _twice_from_one(t: float) -> float:
    return 2.0 * (1.0 - t)
