"""The kernels as torch operations: for every device and transform, and without numba.

The other backends have functions with these names and arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from l0func.kernels.by_torch_contraction import contract
from l0func.kernels.by_torch_streams import fold, normals, split, uniforms
from l0func.kernels.formula import Formula

__all__ = [
    "contract",
    "draw",
    "fold",
    "masked_moment_grads",
    "masked_moments",
    "moments",
    "normals",
    "quantile",
    "split",
    "tail",
    "uniforms",
]
BLOCK = 1 << 14
"""Gates at once: they fit the cache, and torch runs so few on one thread."""


class Moments(NamedTuple):
    """Mean and variance of every gate, and their slopes in log_alpha; all shaped like it."""

    mean: Tensor
    variance: Tensor
    mean_slope: Tensor
    variance_slope: Tensor


class Node(NamedTuple):
    """One node of a quadrature over gate values."""

    t: float
    """A gate value in (0, 1)."""
    weight: float
    constant: float
    """``formula.node(t)``."""


def middle_of(nodes: Sequence[Node]) -> Node:
    """The first of the nodes that are nearest to a half, in code that compilers follow."""
    nearest = nodes[0]
    for node in nodes:
        if abs(node.t - 0.5) < abs(nearest.t - 0.5):
            nearest = node
    return nearest


def draw(formula: Formula, log_alpha: Tensor, keys: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """One draw for each gate from each key.

    Args:
        formula: The gates' formula.
        log_alpha: Locations in float32 or float64, ``(K, N)``, or ``(1, N)`` for all keys.
        keys: ``(K, 2)``.
        first: The position of the first gate in every key's stream.

    Returns:
        The gates, ``(K, N)``, and their slopes in the locations.
    """
    call, skip = divmod(first, 4)
    count = log_alpha.shape[-1]
    starts = torch.stack((keys[:, 0], keys[:, 1] + call), dim=-1)
    u = uniforms(starts.unsqueeze(-2), (skip + count,))[:, skip:]
    return quantile(formula, u.to(log_alpha.dtype), log_alpha)


def quantile(formula: Formula, u: Tensor, log_alpha: Tensor) -> tuple[Tensor, Tensor]:
    """The gates at given probabilities, and their slopes in the locations.

    Args:
        formula: The gates' formula.
        u: Probabilities in (0, 1), ``(K, N)``, in the dtype of ``log_alpha``.
        log_alpha: ``(K, N)`` or ``(1, N)``.
    """
    if u.numel() <= BLOCK:
        return recorded_quantile(formula, u, log_alpha)
    z, slopes = torch.empty_like(u), torch.empty_like(u)
    step = max(BLOCK // u.shape[1], 1)
    for left in range(0, u.shape[1], BLOCK):
        columns = slice(left, left + BLOCK)
        p, q = formula.prepare(log_alpha[:, columns], *formula.settings)
        for top in range(0, u.shape[0], step):
            rows = slice(top, top + step)
            of_rows = slice(None) if p.shape[0] == 1 else rows
            own = u[rows, columns], p[of_rows], q[of_rows]
            z[rows, columns], slopes[rows, columns] = formula.draw(*own, *formula.settings)
    return z, slopes


def recorded_quantile(formula: Formula, u: Tensor, log_alpha: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`quantile`, for shapes that broadcast, in operations that torch differentiates."""
    p, q = formula.prepare(log_alpha, *formula.settings)
    return formula.draw(u, p, q, *formula.settings)


def tail(formula: Formula, constant: float, log_alpha: Tensor) -> tuple[Tensor, Tensor]:
    """P(z > t) for one gate value t, and its slope in the locations.

    Args:
        formula: The gates' formula.
        constant: ``formula.node(t)``.
        log_alpha: ``(N,)``.
    """
    p, q = formula.prepare(log_alpha, *formula.settings)
    survival, _, slope = formula.tails(constant, p, q, *formula.settings)
    return survival, slope


def moments(formula: Formula, nodes: Sequence[Node], log_alpha: Tensor) -> Moments:
    r"""Mean and variance of every gate with their slopes, by quadrature.

    .. math:: E[z] = \int_0^1 P(z > t)\, dt, \quad E[z^2] = \int_0^1 2t\, P(z > t)\, dt

    A gate that is open more often than not is computed from 1 - z, so that no small number is
    lost in a difference.

    Args:
        formula: The gates' formula.
        nodes: The quadrature.
        log_alpha: ``(N,)``.
    """
    p, q = formula.prepare(log_alpha, *formula.settings)
    middle = middle_of(nodes)
    survival, cumulative, _ = formula.tails(middle.constant, p, q, *formula.settings)
    is_open = survival > cumulative
    zero = torch.zeros_like(log_alpha)
    first, second, slope, second_slope = zero, zero, zero, zero
    for t, weight, constant in nodes:
        survival, cumulative, change = formula.tails(constant, p, q, *formula.settings)
        smaller = torch.where(is_open, cumulative, survival)
        twice = torch.where(is_open, 2.0 * (1.0 - t), zero + 2.0 * t)
        first = first + weight * smaller
        second = second + weight * twice * smaller
        slope = slope + weight * change
        second_slope = second_slope + weight * twice * change
    variance = (second - first * first).clamp(min=0.0)
    mean = torch.where(is_open, 1.0 - first, first)
    rest = second_slope - 2.0 * first * slope
    return Moments(mean, variance, slope, torch.where(is_open, -rest, rest))


def masked_moments(
    formula: Formula, nodes: Sequence[Node], log_alpha: Tensor, w: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and variance of a weight times its gate, ``w * E[z]`` and ``w * w * Var[z]``.

    Args:
        formula: The gates' formula.
        nodes: The quadrature.
        log_alpha: ``(N,)``.
        w: Weights, ``(N,)``, in the dtype of ``log_alpha``.
    """
    return weighted(moments(formula, nodes, log_alpha), w)


def masked_moment_grads(
    formula: Formula,
    nodes: Sequence[Node],
    log_alpha: Tensor,
    w: Tensor,
    mean_grad: Tensor,
    variance_grad: Tensor,
) -> tuple[Tensor, Tensor]:
    """A loss's gradients in locations and weights, from those in :func:`masked_moments`.

    Args:
        formula: The gates' formula.
        nodes: The quadrature.
        log_alpha: ``(N,)``.
        w: Weights, ``(N,)``; all tensors have one dtype.
        mean_grad: The gradients in the means, ``(N,)``.
        variance_grad: The gradients in the variances, ``(N,)``.
    """
    return weighted_grads(moments(formula, nodes, log_alpha), w, mean_grad, variance_grad)


def weighted(m: Moments, w: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of a weight times its gate, from the gate's."""
    return w * m.mean, w * w * m.variance


def weighted_grads(
    m: Moments, w: Tensor, mean_grad: Tensor, variance_grad: Tensor
) -> tuple[Tensor, Tensor]:
    """A loss's gradients in locations and weights, from those in :func:`weighted`."""
    w_variance_grad = w * variance_grad
    la_grad = w * (mean_grad * m.mean_slope + w_variance_grad * m.variance_slope)
    return la_grad, mean_grad * m.mean + 2.0 * w_variance_grad * m.variance
