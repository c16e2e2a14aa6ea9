"""The launches of the kernels: sizes of tiles, grids, and memory for the results.

Sizes are fixed and depend on the shapes alone, so that results repeat.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l0func.internal.untyped import untyped
from l0func.kernels.by_triton import gates, vectors
from l0func.kernels.by_triton.binding import kernel
from l0func.kernels.formula import Formula

CALLS = 256
"""Calls of the generator in a block of gates in stream order."""

SUM_CALLS = 64
"""The same where one program adds all keys: more programs."""


class Tile(NamedTuple):
    """What a program of a product with vectors draws at once: its registers hold it."""

    examples: int
    rows: int
    columns: int


# The fastest of 34 on an H100, at 784→300 for 128 keys and at 4096→4096 for 32.
FORWARD, BACKWARD, OUTER = Tile(2, 8, 64), Tile(2, 16, 32), Tile(1, 32, 32)

PREPARED = 1024
"""Gates that a program prepares."""

PROGRAMS = 1024
"""Enough programs to keep the largest cards busy; a long sum is cut into so many parts."""


class Lines(NamedTuple):
    """The prepared gates of a linear map, and where they lie in a key's stream."""

    p: Tensor
    """``(O, gates of a weight row)``."""
    q: Tensor
    columns: int
    """Entries in a weight row."""
    first: int
    """The first gate's position."""
    step: int = 0
    """From one row's first gate to the next row's in the stream; 0 if rows follow each other."""

    @property
    def rows(self) -> int:
        """The weight's rows."""
        return self.p.shape[0]

    @property
    def repeat(self) -> int:
        """Consecutive entries that share a gate."""
        return self.columns // max(self.p.shape[1], 1)

    @property
    def by_calls(self) -> bool:
        """Whether every weight row begins with a whole call of the generator."""
        starts = self.first % 4 == 0 and self.stride % 4 == 0
        return self.repeat == 1 and self.columns % 4 == 0 and starts

    @property
    def stride(self) -> int:
        """From one row's first gate to the next row's."""
        return self.step or self.p.shape[1]


def device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """A context for launches: Triton launches on torch's current card, not on the tensors'."""
    return untyped.cuda.device_of(tensor)


def prepared(formula: Formula, log_alpha: Tensor) -> tuple[Tensor, Tensor]:
    """``formula.prepare`` of all locations, each contiguous and shaped like them."""
    la = log_alpha.contiguous()
    p, q, count = torch.empty_like(la), torch.empty_like(la), la.numel()
    if count:
        with device_of(la):
            run = kernel(gates.prepare_gates, formula)[(_cuts(count, PREPARED),)]
            run(la, formula.settings, p, q, count, PREPARED)
    return p, q


def draw_gates(
    formula: Formula, p: Tensor, q: Tensor, keys: Tensor, first: int
) -> tuple[Tensor, Tensor]:
    """Gates and slopes, ``(K, N)``, for prepared gates ``(K, N)`` or ``(1, N)``."""
    batch, count = keys.shape[0], p.shape[1]
    z, slopes = p.new_empty(batch, count), p.new_empty(batch, count)
    blocks = _blocks(count, first, CALLS)
    line = count if p.shape[0] > 1 else 0
    sizes = count, line, first, blocks
    run = kernel(gates.draw_gates, formula)
    if z.numel():
        run[(batch * blocks,)](keys, p, q, formula.settings, z, slopes, *sizes, CALLS)
    return z, slopes


def mask_entries(
    formula: Formula, p: Tensor, q: Tensor, keys: Tensor, first: int, a: Tensor, into: Any
) -> None:
    """Write a weight times masks.

    Args:
        formula: The formula.
        p: The gates, prepared, ``(N,)``.
        q: As p.
        keys: ``(K, 2)``.
        first: The first gate's position.
        a: The weight, ``(N * repeat,)``.
        into: By the order, 0 or 1: receives ``(K, N * repeat)``.
    """
    count = p.shape[0]
    if not a.numel() or not keys.shape[0]:
        return
    blocks = _blocks(count, first, CALLS)
    masked, slopes = into.get(0, a), into.get(1, a)
    sizes = count, a.shape[0] // count, first, blocks
    run = kernel(gates.mask_entries, formula)[(keys.shape[0] * blocks,)]
    run(keys, p, q, formula.settings, a, masked, slopes, *sizes, CALLS, 0 in into, 1 in into)


def sum_entries(
    formula: Formula, p: Tensor, q: Tensor, keys: Tensor, first: int, products: Tensor, into: Any
) -> None:
    """Add products times masks over all keys.

    Args:
        formula: The formula.
        p: The gates, prepared, ``(N,)``.
        q: As p.
        keys: ``(K, 2)``.
        first: The first gate's position.
        products: ``(K, N * repeat)``.
        into: By the order, 0 or 1: the sums are added here, ``(N * repeat,)``.
    """
    count = p.shape[0]
    if not products.numel():
        return
    blocks, repeat = _blocks(count, first, SUM_CALLS), products.shape[1] // count
    sums, slopes = into.get(0, products), into.get(1, products)
    sizes = keys.shape[0], count, repeat, first, blocks
    run = kernel(gates.sum_entries, formula)[(blocks * repeat,)]
    flags = 0 in into, 1 in into
    run(keys, p, q, formula.settings, products, sums, slopes, *sizes, SUM_CALLS, *flags)


def forward_product(
    formula: Formula, lines: Lines, keys: Tensor, a: Tensor, x: Tensor, order: int
) -> Tensor:
    """Output vectors ``(B, O)`` from inputs ``(B, I)``."""
    batch = keys.shape[0]
    y = a.new_zeros(batch, lines.rows)
    if not y.numel():
        return y
    # A card takes 2**31 programs along the first axis, and 65,535 along the others.
    programs = _cuts(batch, FORWARD.examples) * _cuts(lines.rows, FORWARD.rows)
    run = kernel(vectors.forward_product, formula)[(programs,)]
    how = *FORWARD, order, lines.by_calls
    run(keys, lines.p, lines.q, formula.settings, a, x, y, *_sizes(lines, batch), *how)
    return y


def backward_product(
    formula: Formula, lines: Lines, keys: Tensor, a: Tensor, g: Tensor, order: int
) -> Tensor:
    """Input vectors ``(B, I)`` from outputs ``(B, O)``."""
    batch = keys.shape[0]
    programs = _cuts(batch, BACKWARD.examples) * _cuts(lines.columns, BACKWARD.columns)
    part, parts = _parts(lines.rows, BACKWARD.rows, programs)
    x = a.new_zeros(parts, batch, lines.columns)
    if not a.numel() or not batch:
        return x.sum(0)
    run = kernel(vectors.backward_product, formula)[programs, parts]
    how = *BACKWARD, order, lines.by_calls
    sizes = *_sizes(lines, batch), part
    run(keys, lines.p, lines.q, formula.settings, a, g, x, *sizes, *how)
    return x.sum(0)


def outer_product(
    formula: Formula, lines: Lines, keys: Tensor, x: Tensor, g: Tensor, orders: set[int]
) -> dict[int, Tensor]:
    """By the order: output times input times mask, ``(O, I)``, summed over keys."""
    batch, tiles = keys.shape[0], _cuts(lines.columns, OUTER.columns)
    programs = _cuts(lines.rows, OUTER.rows) * tiles
    part, parts = _parts(batch, OUTER.examples, programs)
    shape = parts, lines.rows, lines.columns
    sums = {order: x.new_zeros(shape) for order in orders}
    if batch and lines.rows and lines.columns:
        into = sums.get(0, x), sums.get(1, x)
        run = kernel(vectors.outer_product, formula)[programs, parts]
        how = *OUTER, 0 in orders, 1 in orders, lines.by_calls
        sizes = *_sizes(lines, batch), part, tiles
        run(keys, lines.p, lines.q, formula.settings, x, g, *into, *sizes, *how)
    return {order: total.sum(0) for order, total in sums.items()}


def _sizes(lines: Lines, batch: int) -> tuple[int, ...]:
    own = lines.columns, max(lines.repeat, 1), lines.first, lines.stride
    return batch, lines.rows, *own


def _blocks(count: int, first: int, calls: int) -> int:
    """Blocks of calls for so many gates."""
    return _cuts(first % 4 + count, 4 * calls)


def _parts(length: int, step: int, programs: int) -> tuple[int, int]:
    """How a sum of some length is cut: the length of a part, and the number of parts."""
    wanted = max(1, PROGRAMS // max(programs, 1))
    part = max(1, _cuts(_cuts(length, wanted), step)) * step
    return part, max(1, _cuts(length, part))


def _cuts(length: int, size: int) -> int:
    return -(-length // size)
