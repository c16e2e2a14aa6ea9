"""Mean and variance of gates with their slopes, in one pass over the gates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from l0func.internal.constants import kept_numbers
from l0func.kernels import by_torch
from l0func.kernels.by_torch import Moments, Node, middle_of
from l0func.kernels.by_triton.binding import kernel
from l0func.kernels.by_triton.launches import device_of, prepared
from l0func.kernels.by_triton.triton_names import constexpr, tl
from l0func.kernels.formula import Formula

GATES = 256
"""Gates in a program."""

tails: Any = None
"""A formula's function; the kernel is compiled with it in this place."""


def moments(formula: Formula, nodes: Sequence[Node], log_alpha: Tensor) -> Moments:
    """See :func:`l0func.kernels.by_torch.moments`."""
    if log_alpha.dtype != torch.float32:
        return by_torch.moments(formula, nodes, log_alpha)
    p, q = prepared(formula, log_alpha)
    table = kept_numbers(tuple(nodes), torch.float32, log_alpha.device)
    middle = middle_of(nodes).constant
    results = [torch.empty_like(p) for _ in range(4)]
    count = p.shape[0]
    run = kernel(integrate, formula)
    if count:
        sizes = count, len(nodes), middle, GATES
        with device_of(p):
            run[(-(-count // GATES),)](p, q, formula.settings, table, *results, *sizes)
    return Moments(*results)


def masked_moments(
    formula: Formula, nodes: Sequence[Node], log_alpha: Tensor, w: Tensor
) -> tuple[Tensor, Tensor]:
    """See :func:`l0func.kernels.by_torch.masked_moments`."""
    return by_torch.weighted(moments(formula, nodes, log_alpha), w)


def masked_moment_grads(
    formula: Formula,
    nodes: Sequence[Node],
    log_alpha: Tensor,
    w: Tensor,
    mean_grad: Tensor,
    variance_grad: Tensor,
) -> tuple[Tensor, Tensor]:
    """See :func:`l0func.kernels.by_torch.masked_moment_grads`."""
    own = moments(formula, nodes, log_alpha)
    return by_torch.weighted_grads(own, w, mean_grad, variance_grad)


def integrate(
    p: Any,
    q: Any,
    settings: Any,
    nodes: Any,
    means: Any,
    variances: Any,
    mean_slopes: Any,
    variance_slopes: Any,
    count: Any,
    size: Any,
    middle: Any,
    GATES: constexpr,
) -> None:
    """The kernel: see :func:`l0func.kernels.by_torch.moments` for the equations.

    Args:
        p: The gates, prepared, ``(N,)``.
        q: As p.
        settings: The formula's.
        nodes: ``(size, 3)``: gate values, weights and constants.
        means: Receives results, ``(N,)``, as the next three.
        variances: As above.
        mean_slopes: As above.
        variance_slopes: As above.
        count: N.
        size: The number of nodes.
        middle: The constant of the node next to 1/2.
        GATES: Gates in a program.
    """
    i = tl.program_id(0) * GATES + tl.arange(0, GATES)
    is_own = i < count
    own_p = tl.load(p + i, mask=is_own, other=1.0)
    own_q = tl.load(q + i, mask=is_own, other=1.0)
    survival, cumulative, change = tails(middle, own_p, own_q, *settings)
    is_open = survival > cumulative
    first = tl.zeros((GATES,), tl.float32)
    second, slope, second_slope = first, first, first
    for n in range(size):
        t = tl.load(nodes + 3 * n)
        weight = tl.load(nodes + 3 * n + 1)
        constant = tl.load(nodes + 3 * n + 2)
        survival, cumulative, change = tails(constant, own_p, own_q, *settings)
        smaller = weight * tl.where(is_open, cumulative, survival)
        twice = tl.where(is_open, 2.0 * (1.0 - t), 2.0 * t)
        first += smaller
        second += twice * smaller
        slope += weight * change
        second_slope += twice * weight * change
    variance = second - first * first
    rest = second_slope - 2.0 * first * slope
    tl.store(means + i, tl.where(is_open, 1.0 - first, first), mask=is_own)
    tl.store(variances + i, tl.where(variance > 0.0, variance, 0.0), mask=is_own)
    tl.store(mean_slopes + i, slope, mask=is_own)
    tl.store(variance_slopes + i, tl.where(is_open, -rest, rest), mask=is_own)
