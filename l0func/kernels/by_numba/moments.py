"""Tails, means and variances of gates, in blocks that fit the cache.

The nodes are the outer loop over a block, so that its inner loops run in vectors. One buffer holds
all numbers of a block: the compiler then sees that they do not overlap.
"""

from __future__ import annotations

from typing import Any

from l0func.kernels.by_numba.gates import prepare, tails
from l0func.kernels.by_numba.numba_names import numpy as np
from l0func.kernels.vocabulary import where

BLOCK = 256
"""Gates in a block."""


def tail_of_gates(c: Any, la: Any, settings: Any, survival: Any, slope: Any) -> None:
    """Write P(z > t) and its slope for every gate.

    Args:
        c: The constant that stands for t.
        la: Locations, ``(N,)``.
        settings: The formula's.
        survival: Receives the probabilities, ``(N,)``.
        slope: Receives the slopes, ``(N,)``.
    """
    buffer = np.empty(2 * BLOCK, la.dtype)
    p, q = buffer[:BLOCK], buffer[BLOCK:]
    for start in range(0, la.shape[0], BLOCK):
        own, own_survival = la[start : start + BLOCK], survival[start : start + BLOCK]
        own_slope = slope[start : start + BLOCK]
        prepare_block(own, settings, p, q)
        for i in range(own.shape[0]):
            own_survival[i] = tails(c, p[i], q[i], *settings)[0]
        for i in range(own.shape[0]):
            own_slope[i] = tails(c, p[i], q[i], *settings)[2]


def moments_of_gates(la: Any, settings: Any, nodes: Any, results: Any) -> None:
    """Write mean, variance and their slopes for every gate.

    Args:
        la: Locations, ``(N,)``.
        settings: The formula's.
        nodes: ``(1 + nodes, 3)``: gate value, weight and constant. The first line is the node in
            the middle, once more.
        results: Four arrays, ``(N,)``, that receive the moments.
    """
    buffer = np.empty(7 * BLOCK, la.dtype)
    for start in range(0, la.shape[0], BLOCK):
        own = la[start : start + BLOCK]
        fill_moments(own, settings, nodes, buffer, True)
        for k in range(4):
            found, into = buffer[(3 + k) * BLOCK :], results[k][start : start + BLOCK]
            for i in range(own.shape[0]):
                into[i] = found[i]


def masked_moments_of_gates(
    la: Any, w: Any, settings: Any, nodes: Any, mean: Any, variance: Any
) -> None:
    """Write the mean and variance of ``w * z`` for every gate.

    Args:
        la: Locations, ``(N,)``.
        w: Weights, ``(N,)``.
        settings: The formula's.
        nodes: As for :func:`moments_of_gates`.
        mean: Receives the means, ``(N,)``.
        variance: Receives the variances, ``(N,)``.
    """
    buffer = np.empty(7 * BLOCK, la.dtype)
    first, second = buffer[3 * BLOCK : 4 * BLOCK], buffer[4 * BLOCK : 5 * BLOCK]
    for start in range(0, la.shape[0], BLOCK):
        own, own_w = la[start : start + BLOCK], w[start : start + BLOCK]
        fill_moments(own, settings, nodes, buffer, False)
        own_mean, own_variance = mean[start : start + BLOCK], variance[start : start + BLOCK]
        for i in range(own.shape[0]):
            own_mean[i] = own_w[i] * first[i]
        for i in range(own.shape[0]):
            own_variance[i] = own_w[i] * own_w[i] * second[i]


def masked_moment_grads_of_gates(
    la: Any,
    w: Any,
    settings: Any,
    nodes: Any,
    mean_grad: Any,
    variance_grad: Any,
    la_grad: Any,
    w_grad: Any,
) -> None:
    """Write the gradients of a loss in locations and weights.

    Args:
        la: Locations, ``(N,)``.
        w: Weights, ``(N,)``.
        settings: The formula's.
        nodes: As for :func:`moments_of_gates`.
        mean_grad: The loss's gradients in the means of ``w * z``, ``(N,)``.
        variance_grad: Those in the variances, ``(N,)``.
        la_grad: Receives the gradients in the locations, ``(N,)``.
        w_grad: Receives the gradients in the weights, ``(N,)``.
    """
    buffer = np.empty(7 * BLOCK, la.dtype)
    first, second = buffer[3 * BLOCK : 4 * BLOCK], buffer[4 * BLOCK : 5 * BLOCK]
    slope, second_slope = buffer[5 * BLOCK : 6 * BLOCK], buffer[6 * BLOCK :]
    for start in range(0, la.shape[0], BLOCK):
        own, own_w = la[start : start + BLOCK], w[start : start + BLOCK]
        fill_moments(own, settings, nodes, buffer, True)
        of_mean = mean_grad[start : start + BLOCK]
        of_variance = variance_grad[start : start + BLOCK]
        own_la_grad, own_w_grad = la_grad[start : start + BLOCK], w_grad[start : start + BLOCK]
        for i in range(own.shape[0]):
            change = of_mean[i] * slope[i] + own_w[i] * of_variance[i] * second_slope[i]
            own_la_grad[i] = own_w[i] * change
        for i in range(own.shape[0]):
            change = own_w[i] * of_variance[i] * second[i]
            own_w_grad[i] = of_mean[i] * first[i] + 2.0 * change


def prepare_block(la: Any, settings: Any, p: Any, q: Any) -> None:
    """Prepare a block's gates."""
    for i in range(la.shape[0]):
        p[i] = prepare(la[i], *settings)[0]
    for i in range(la.shape[0]):
        q[i] = prepare(la[i], *settings)[1]


def fill_moments(la: Any, settings: Any, nodes: Any, buffer: Any, slopes: Any) -> None:
    """Compute a block's moments; see :func:`l0func.kernels.by_torch.moments`.

    Args:
        la: The block's locations, at most ``BLOCK``.
        settings: The formula's.
        nodes: As for :func:`moments_of_gates`.
        buffer: ``7 * BLOCK`` numbers. Its last four rows receive mean, variance and their slopes.
        slopes: Whether to compute the slopes.
    """
    p, q, is_open = buffer[:BLOCK], buffer[BLOCK : 2 * BLOCK], buffer[2 * BLOCK : 3 * BLOCK]
    first, second = buffer[3 * BLOCK : 4 * BLOCK], buffer[4 * BLOCK : 5 * BLOCK]
    slope, second_slope = buffer[5 * BLOCK : 6 * BLOCK], buffer[6 * BLOCK :]
    count = la.shape[0]
    prepare_block(la, settings, p, q)
    middle = nodes[0, 2]
    for i in range(count):
        survival, cumulative, _ = tails(middle, p[i], q[i], *settings)
        is_open[i] = where(survival > cumulative, 1.0, 0.0)
    for i in range(3 * BLOCK, 7 * BLOCK):
        buffer[i] = 0.0
    for n in range(1, nodes.shape[0]):
        t, weight, c = nodes[n, 0], nodes[n, 1], nodes[n, 2]
        below, above = 2.0 * t, 2.0 * (1.0 - t)
        for i in range(count):
            survival, cumulative, _ = tails(c, p[i], q[i], *settings)
            smaller = weight * where(is_open[i] > 0.0, cumulative, survival)
            first[i] += smaller
            second[i] += where(is_open[i] > 0.0, above, below) * smaller
        if slopes:
            for i in range(count):
                change = weight * tails(c, p[i], q[i], *settings)[2]
                slope[i] += change
                second_slope[i] += where(is_open[i] > 0.0, above, below) * change
    for i in range(count):
        rest = second_slope[i] - 2.0 * first[i] * slope[i]
        second_slope[i] = where(is_open[i] > 0.0, -rest, rest)
    for i in range(count):
        variance = second[i] - first[i] * first[i]
        second[i] = where(variance < 0.0, 0.0, variance)
        first[i] = where(is_open[i] > 0.0, 1.0 - first[i], first[i])
