"""Contractions in machine code, in tiles that do not depend on the number of threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from torch import Tensor

from l0func.kernels.by_chunks import Chunk, contracted_by_chunks
from l0func.kernels.by_numba import contraction as loops
from l0func.kernels.by_numba.compiled import array, compiled, key_array, settings_of
from l0func.kernels.by_numba.gate_calls import prepared
from l0func.kernels.by_numba.stream_calls import uniforms
from l0func.kernels.by_numba.strip import strip_room
from l0func.kernels.by_numba.vector_calls import contract_vectors
from l0func.kernels.by_torch_contraction import contract_by
from l0func.kernels.contraction import Contraction, Operands, Output, has_one_vector
from l0func.kernels.formula import Formula
from l0func.kernels.pool import run_tiles

DRAW = 1 << 10
"""The entries that are masked by one draw, so that they stay in a cache."""

TILES, DRAWS_IN_TILE = 8, 16
"""The tiles of a weight, where it has enough gates for them, and the most draws of a tile."""


def contract(
    contraction: Contraction, outputs: Sequence[Output], keys: Tensor, operands: Operands
) -> list[Tensor]:
    """See :func:`l0func.kernels.by_torch_contraction.contract`."""
    formula = contraction.distribution.formula
    if formula is None or any(output.order > 1 for output in outputs):
        return contract_by(uniforms, contraction, outputs, keys, operands)
    if has_one_vector(contraction, operands):
        return contract_vectors(contraction, formula, outputs, keys, operands)
    p, q = prepared(formula, operands.log_alpha.flatten())
    a = p.new_empty(0) if operands.a is None else operands.a.flatten()
    fill = partial(_fill, contraction, formula, p, q, a)
    return contracted_by_chunks(contraction, outputs, keys, operands, fill)


def _fill(
    contraction: Contraction, formula: Formula, p: Tensor, q: Tensor, a: Tensor, chunk: Chunk
) -> None:
    """Draw the masks for a chunk and fill its results; see :class:`Chunk`."""
    dtype, gates, repeat = p.dtype, p.shape[0], contraction.repeat
    run = compiled(loops.mask_entries, dtype, formula)
    settings, keys = settings_of(formula, dtype), key_array(chunk.keys)
    masked = [array(chunk.masked.get(order, p.new_empty(0, 0))) for order in (0, 1)]
    sums = [array(chunk.sums.get(order, p.new_empty(0))) for order in (0, 1)]
    shared = array(p), array(q), settings, repeat
    factors = array(a), array(chunk.products)
    results = tuple(masked), tuple(sums)
    size = max(1, DRAW // repeat)
    step = size * max(1, min(gates // (size * TILES), DRAWS_IN_TILE))

    def run_tile(tile: int) -> None:
        room = strip_room(size, repeat, 2, p)
        for first, *own in _pieces(contraction, tile * step, min((tile + 1) * step, gates)):
            run(keys, first, *shared, *factors, *results, tuple(own), *room)

    run_tiles(run_tile, -(-gates // step), gates * keys.shape[0])


def _pieces(contraction: Contraction, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """The gates from ``start`` to ``stop`` in pieces that follow each other in the stream.

    Each has the position of gate 0 as if the stream went on in front of it, its first gate, and
    the one after its last.
    """
    first, line = contraction.first, contraction.gates[1]
    if not contraction.step:
        yield first, start, stop
        return
    for row in range(start // line, -(-stop // line)):
        own = max(start, row * line), min(stop, (row + 1) * line)
        yield first + row * (contraction.step - line), *own
