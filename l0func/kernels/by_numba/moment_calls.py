"""Tails and moments of gates: the functions of :mod:`l0func.kernels.by_torch`, in machine code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from l0func.kernels.by_numba import moments as templates
from l0func.kernels.by_numba.compiled import array, compiled, settings_of
from l0func.kernels.by_numba.numba_names import numpy as np
from l0func.kernels.by_torch import Moments, Node, middle_of
from l0func.kernels.formula import Formula
from l0func.kernels.pool import run_tiles

_TILE = 1 << 16
"""Gates that one thread computes at a time."""


def tail(formula: Formula, constant: float, log_alpha: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`l0func.kernels.by_torch.tail`."""
    survival, slope = torch.empty_like(log_alpha), torch.empty_like(log_alpha)
    run = compiled(templates.tail_of_gates, log_alpha.dtype, formula)
    settings, la = settings_of(formula, log_alpha.dtype), array(log_alpha)
    c, into, slope_into = la.dtype.type(constant), array(survival), array(slope)

    def compute(gates: slice) -> None:
        run(c, la[gates], settings, into[gates], slope_into[gates])

    _in_tiles(compute, la.size, 1)
    return survival, slope


def moments(formula: Formula, nodes: Sequence[Node], log_alpha: Tensor) -> Moments:
    """See :func:`l0func.kernels.by_torch.moments`."""
    results = [torch.empty_like(log_alpha) for _ in range(4)]
    run = compiled(templates.moments_of_gates, log_alpha.dtype, formula)
    settings, la = settings_of(formula, log_alpha.dtype), array(log_alpha)
    lines, into = _lines_of(nodes, la.dtype), [array(t) for t in results]

    def compute(gates: slice) -> None:
        run(la[gates], settings, lines, tuple([t[gates] for t in into]))

    _in_tiles(compute, la.size, len(nodes))
    return Moments(*results)


def masked_moments(
    formula: Formula, nodes: Sequence[Node], log_alpha: Tensor, w: Tensor
) -> tuple[Tensor, Tensor]:
    """See :func:`l0func.kernels.by_torch.masked_moments`."""
    results = torch.empty_like(log_alpha), torch.empty_like(log_alpha)
    run = compiled(templates.masked_moments_of_gates, log_alpha.dtype, formula)
    settings, la, weight = settings_of(formula, log_alpha.dtype), array(log_alpha), array(w)
    lines, (mean, variance) = _lines_of(nodes, la.dtype), [array(t) for t in results]

    def compute(gates: slice) -> None:
        run(la[gates], weight[gates], settings, lines, mean[gates], variance[gates])

    _in_tiles(compute, la.size, len(nodes))
    return results


def masked_moment_grads(
    formula: Formula,
    nodes: Sequence[Node],
    log_alpha: Tensor,
    w: Tensor,
    mean_grad: Tensor,
    variance_grad: Tensor,
) -> tuple[Tensor, Tensor]:
    """See :func:`l0func.kernels.by_torch.masked_moment_grads`."""
    results = torch.empty_like(log_alpha), torch.empty_like(log_alpha)
    run = compiled(templates.masked_moment_grads_of_gates, log_alpha.dtype, formula)
    la, weight, *grads = [array(t) for t in (log_alpha, w, mean_grad, variance_grad, *results)]
    settings, lines = settings_of(formula, log_alpha.dtype), _lines_of(nodes, la.dtype)

    def compute(gates: slice) -> None:
        own_grads = [grad[gates] for grad in grads]
        run(la[gates], weight[gates], settings, lines, *own_grads)

    _in_tiles(compute, la.size, len(nodes))
    return results


def _lines_of(nodes: Sequence[Node], dtype: Any) -> Any:
    """The nodes for the kernels; the one in the middle stands before all of them once more."""
    middle = middle_of(nodes)
    return np.array([tuple(node) for node in (middle, *nodes)], dtype)


def _in_tiles(compute: Callable[[slice], None], gates: int, nodes: int) -> None:
    """Call ``compute`` for slices that cover the gates."""
    count = -(-gates // _TILE)

    def tile(i: int) -> None:
        compute(slice(i * _TILE, (i + 1) * _TILE))

    # A node costs half as much as a draw.
    run_tiles(tile, count, gates * nodes // 2)
