"""Derivatives for many draws, computed in blocks that fit the cache.

:meth:`GateDistribution.evaluated` calls this for draws too large for one block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

# Gates in one block: their draws and sums stay in a cache. Fresh memory beyond the cache would
# cost more than the arithmetic.
GATES_IN_CACHE = 1 << 16

Derivatives = Callable[[Tensor, Tensor, Sequence[int]], list[Tensor]]
"""The signature of :meth:`GateDistribution.derivatives`."""


def needs_blocks(u: Tensor, prepared: Tensor) -> bool:
    """Whether the draws exceed one block, and blocks are possible."""
    gate_shape = u.shape[u.dim() - prepared.dim() :]
    return u.numel() > GATES_IN_CACHE and gate_shape == prepared.shape


def in_blocks(
    derivatives: Derivatives, u: Tensor, prepared: Tensor, orders: Sequence[int]
) -> list[Tensor]:
    """``derivatives(u, prepared, orders)``, one block at a time.

    Args:
        derivatives: The elementwise computation.
        u: Probabilities, shape ``(*many, *gates)``.
        prepared: Prepared locations, shape ``(*gates)``.
        orders: The orders to compute.
    """
    gates = prepared.numel()
    draws = u.reshape(-1, gates)
    locations = prepared.reshape(-1)
    results = u.new_empty(len(orders), *draws.shape)
    for many, columns in _slices(draws.shape[0], gates):
        values = derivatives(draws[many, columns], locations[columns], orders)
        for result, value in zip(results, values, strict=True):
            result[many, columns] = value
    return list(results.reshape(len(orders), *u.shape))


def _slices(draws: int, gates: int) -> Iterator[tuple[slice, slice]]:
    """Pairs (slice for draws, slice for gates) with at most ``GATES_IN_CACHE`` entries."""
    step = max(GATES_IN_CACHE // gates, 1)
    for top in range(0, draws, step):
        for left in range(0, gates, GATES_IN_CACHE):
            yield slice(top, top + step), slice(left, left + GATES_IN_CACHE)
