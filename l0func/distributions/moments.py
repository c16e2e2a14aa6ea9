"""Moments by quadrature: a gate's survival function, integrated.

:class:`GateDistribution` finds its two quadratures here, once, and integrates with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from l0func.distributions.quadrature import Quadrature, converged

LEVELS = (1e-4, 1e-2, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999)
THRESHOLDS = (0.0, 0.1, 0.5, 0.9, 0.999)
"""The search tests the locations where P(z <= t) is a level, for each level and threshold t."""


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


MomentFunction = Callable[[Tensor, Quadrature], tuple[Tensor, Tensor]]
"""``(log_alpha, quadrature)`` to mean and variance."""


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
    log_alpha = torch.tensor(locations, dtype=torch.float64, device="cpu")

    def evaluate(size: int) -> Tensor:
        return torch.stack(moments(log_alpha, nodes(size)))

    sizes = [converged(evaluate, tolerance) for tolerance in (1e-11, 1e-7)]
    found = [nodes(size) for size in sizes if size is not None]
    if len(found) < len(sizes) and converged(evaluate, 1e-5) is not None:
        raise ValueError(
            f"The moments of {name} need more than 512 quadrature nodes for the precision of "
            "float64: they agree to 1e-5 and not to 1e-11. Either a function computes in float32 "
            "somewhere (compute in log_alpha.dtype), or the survival function bends sharply "
            "(choose milder settings), or it has a kink, as Laplace's law has, which stays at all "
            "settings (choose a smooth law near it, such as the logistic one)."
        )
    if len(found) < len(sizes):
        raise ValueError(
            f"The moments of {name} need more than 512 quadrature nodes; its survival "
            f"function is close to a step. "
            "Choose a less extreme temperature or wider stretch limits."
        )
    return Quadratures(*found)


def mean_and_variance(
    quadrature: Quadrature,
    survival: Callable[[float], Tensor],
    cumulative: Callable[[float], Tensor],
) -> tuple[Tensor, Tensor]:
    r"""Mean and variance from P(z > t) and P(z <= t).

    .. math:: E[z] = \int_0^1 P(z > t)\, dt, \quad E[z^2] = \int_0^1 2t\, P(z > t)\, dt

    The complement 1 - z has the same integrals over P(z <= t). The variance comes from z or from
    1 - z, whichever mean is smaller, so that it does not cancel.
    """
    mean, second, complement, complement_second = 0.0, 0.0, 0.0, 0.0
    # One node at a time, so that memory holds one gate vector and not one for each node.
    for t, weight in zip(*quadrature, strict=True):
        above, below = survival(t), cumulative(t)
        mean = mean + weight * above
        second = second + (2.0 * t * weight) * above
        complement = complement + weight * below
        complement_second = complement_second + (2.0 * (1.0 - t) * weight) * below
    assert isinstance(mean, Tensor)
    of_gate, of_complement = second - mean**2, complement_second - complement**2
    variance = torch.where(mean < 0.5, of_gate, of_complement)
    return mean.clamp(max=1.0), variance.clamp(min=0.0)
