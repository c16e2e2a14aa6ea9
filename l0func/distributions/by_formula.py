"""Draws, tails and moments from a formula, with their derivatives in the locations.

The functions are for :func:`l0func.distributions.smooth.smooth`: values of one order, and then
their slopes. A kernel computes orders 0 and 1; torch differentiates the written slope further.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from l0func.distributions.elementwise import differentiated
from l0func.distributions.quadrature import Quadrature
from l0func.internal.shapes import joint_shape
from l0func.internal.untyped import listed_floats, untyped
from l0func.kernels import by_torch
from l0func.kernels.backends import kernels_for
from l0func.kernels.by_torch import Node
from l0func.kernels.formula import Formula

_LONG_LINE = 32
"""Gates from which on a line of its own costs a kernel less than repeated locations."""


def constants_of(formula: Formula, values: Sequence[float]) -> tuple[float, ...]:
    """The numbers that stand for gate values in ``formula.tails``."""
    t = torch.tensor(values, dtype=torch.float64, device="cpu")
    return tuple(listed_floats(formula.node(t, *formula.settings)))


def nodes_of(formula: Formula, quadrature: Quadrature) -> list[Node]:
    """A quadrature's nodes with their constants."""
    constants = constants_of(formula, quadrature.nodes)
    return [Node(*node) for node in zip(*quadrature, constants, strict=True)]


def draw_slopes(formula: Formula, log_alpha: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The draws and their slopes, by a kernel."""
    shape = joint_shape(u.shape, log_alpha.shape)
    lines, locations = _in_lines(u.expand(shape), log_alpha)
    z, slopes = kernels_for(u, log_alpha).quantile(formula, lines, locations)
    return z.reshape(shape), slopes.reshape(shape)


def draw_derivatives(
    formula: Formula, u: Tensor, log_alpha: Tensor, orders: Sequence[int]
) -> list[Tensor]:
    """Derivatives of the draw, in operations that torch can differentiate; all broadcast."""
    shape = joint_shape(u.shape, log_alpha.shape)
    spread = log_alpha.expand(shape)

    def both(la: Tensor) -> tuple[Tensor, Tensor]:
        return by_torch.recorded_quantile(formula, u, la)

    def of_order(order: int) -> Tensor:
        return differentiated(lambda la: both(la)[1], order - 1, spread)

    written = both(log_alpha) if min(orders) < 2 else ()
    return [written[order] if order < 2 else of_order(order) for order in orders]


def stream_slopes(
    formula: Formula, first: int, rank: int, log_alpha: Tensor, seed: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor]:
    """Draws from keys, and their slopes.

    Args:
        formula: The formula.
        first: The position of the first gate in every key's stream.
        rank: The number of gate dimensions.
        log_alpha: Locations, ``(*batch, *gates)``.
        seed: The keys' seeds, ``(*batch, 1, ..., 1)``; the batches broadcast.
        offset: Their offsets, likewise.

    Returns:
        Gates and slopes, ``(*batch, *gates)``.
    """
    # Modes around a call see the draw as a whole: they would take longer than a small draw.
    with untyped._C.DisableTorchFunction():
        return _stream_slopes(formula, first, rank, log_alpha, seed, offset)


def _stream_slopes(
    formula: Formula, first: int, rank: int, log_alpha: Tensor, seed: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor]:
    gates = log_alpha.shape[log_alpha.dim() - rank :]
    own = log_alpha.shape[: log_alpha.dim() - rank]
    of_keys = seed.shape[: seed.dim() - rank]
    batch = joint_shape(own, of_keys)
    keys = torch.stack((seed, offset), dim=-1).reshape(*of_keys, 2).expand(*batch, 2)
    size = prod(gates)
    # One line of locations serves all keys.
    lines = log_alpha if prod(own) == 1 else log_alpha.expand(*batch, *gates)
    locations = lines.reshape(prod(lines.shape[: lines.dim() - rank]), size)
    kernels = kernels_for(log_alpha, seed)
    z, slopes = kernels.draw(formula, locations, keys.reshape(-1, 2), first)
    shape = (*batch, *gates)
    return z.reshape(shape), slopes.reshape(shape)


def tail_slopes(
    formula: Formula, constant: float, order: int, log_alpha: Tensor
) -> tuple[Tensor, ...]:
    """P(z > t) for one gate value, or its derivatives, with slopes."""

    def both(la: Tensor) -> tuple[tuple[Tensor], tuple[Tensor]]:
        survival, slope = by_torch.tail(formula, constant, la)
        return (survival,), (slope,)

    if order > 0:
        return _derivatives(both, order, log_alpha)
    kernels = kernels_for(log_alpha)
    return _in_blocks(kernels, lambda la: kernels.tail(formula, constant, la), log_alpha)


def moment_slopes(
    formula: Formula, nodes: Sequence[Node], order: int, log_alpha: Tensor
) -> tuple[Tensor, ...]:
    """Mean and variance, or their derivatives, and then both slopes."""

    def both(la: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        moments = by_torch.moments(formula, nodes, la)
        return moments[:2], moments[2:]

    if order > 0:
        return _derivatives(both, order, log_alpha)
    kernels = kernels_for(log_alpha)
    return _in_blocks(kernels, lambda la: kernels.moments(formula, nodes, la), log_alpha)


def _derivatives(
    both: Callable[[Tensor], tuple[Any, Any]], order: int, log_alpha: Tensor
) -> tuple[Tensor, ...]:
    def slopes(la: Tensor) -> Any:
        return both(la)[1]

    values = differentiated(slopes, order - 1, log_alpha)
    return *values, *differentiated(slopes, order, log_alpha)


def _in_blocks(
    kernels: Any, function: Callable[[Tensor], Sequence[Tensor]], log_alpha: Tensor
) -> tuple[Tensor, ...]:
    """The results for all locations; torch computes them in blocks that fit the cache."""
    flat = log_alpha.reshape(-1)
    if kernels is not by_torch or flat.numel() <= by_torch.BLOCK:
        return tuple([result.reshape(log_alpha.shape) for result in function(flat)])
    blocks = [function(block) for block in torch.split(flat, by_torch.BLOCK)]
    columns = zip(*blocks, strict=True)
    return tuple([torch.cat(column).reshape(log_alpha.shape) for column in columns])


def _in_lines(u: Tensor, log_alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities ``(K, N)`` and locations ``(K, N)`` or ``(1, N)`` from two that broadcast."""
    gates, size = log_alpha.shape, log_alpha.numel()
    if size >= _LONG_LINE and u.shape[u.dim() - len(gates) :] == gates:
        return u.reshape(u.numel() // size, size), log_alpha.reshape(1, size)
    return u.reshape(1, -1), log_alpha.expand(u.shape).reshape(1, -1)
