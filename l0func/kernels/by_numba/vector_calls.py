"""Linear maps with one vector for each key: each mask meets its vector as soon as it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor

from l0func.kernels.by_numba import contraction as loops
from l0func.kernels.by_numba.compiled import array, compiled, key_array, nothing, settings_of
from l0func.kernels.by_numba.strip import strip_room
from l0func.kernels.contraction import Contraction, Kind, Operands, Output
from l0func.kernels.formula import Formula
from l0func.kernels.pool import run_tiles

PARTS = 8
"""The most tiles of a weight; each has its own part of the inputs' gradients."""

EXAMPLES, MOST_EXAMPLES = 128, 1024
"""The fewest and the most examples that all tiles finish before the next ones."""

DRAWS = 1 << 21
"""The draws of these examples, between the two limits."""

STRIP, WIDTH = 512, 1024
"""The entries of one draw where rows are shorter, and its most entries where they are longer.

A strip's gates, masks and factors stay in the first cache.
"""


@dataclass(frozen=True)
class Tiling:
    """The cuts of a contraction; they depend on its sizes alone.

    Args:
        examples: Examples at a time.
        weight_rows: The weight's rows.
        rows: The rows in a tile.
        lines: The rows of one draw.
        width: The gates of one draw in each of these rows; all of a row's, if there are several.
    """

    examples: int
    weight_rows: int
    rows: int
    lines: int
    width: int

    @property
    def tiles(self) -> int:
        """Their number; one for a weight without rows."""
        return max(1, -(-self.weight_rows // self.rows))

    def rows_of(self, tile: int) -> tuple[int, int]:
        """A tile's first row, and the row after its last."""
        return tile * self.rows, min((tile + 1) * self.rows, self.weight_rows)


def tiled(contraction: Contraction, batch: int) -> Tiling:
    """The tiling for a contraction with a number of examples."""
    weight_rows, line = contraction.gates
    examples = DRAWS // max(weight_rows * line, 1)
    examples = max(EXAMPLES, min(examples, MOST_EXAMPLES))
    # Rows of one draw follow each other in the stream.
    lines = 1 if contraction.step else max(1, STRIP // max(contraction.shape[1], 1))
    strips = -(-weight_rows // lines)
    rows = max(1, -(-strips // PARTS)) * lines
    width = max(1, min(line, WIDTH // contraction.repeat))
    return Tiling(min(examples, max(batch, 1)), weight_rows, rows, lines, width)


def contract_vectors(
    contraction: Contraction,
    formula: Formula,
    outputs: Sequence[Output],
    keys: Tensor,
    operands: Operands,
) -> list[Tensor]:
    """See :func:`l0func.kernels.by_torch_contraction.contract`.

    Args:
        contraction: The sizes.
        formula: The gates' formula.
        outputs: The results to compute, of orders 0 and 1.
        keys: ``(B, 2)``.
        operands: The factors, with one vector for each key.
    """
    like, batch = operands.log_alpha, keys.shape[0]
    tiling = tiled(contraction, batch)
    shapes = {"y": (batch, contraction.shape[0]), "x": (batch, contraction.shape[1])}
    results = {o: like.new_zeros(shapes.get(o.kind, contraction.shape)) for o in outputs}
    size = tiling.tiles, tiling.examples, contraction.shape[1]
    parts = {output: like.new_empty(size) for output in outputs if output.kind == "x"}
    run = _kernel(contraction, formula, keys, operands, results)
    own_parts = _parts_of_tiles(parts, tiling.tiles, like)
    for low in range(0, batch, tiling.examples):
        high = min(low + tiling.examples, batch)

        def run_tile(tile: int, examples: tuple[int, int] = (low, high)) -> None:
            strip = tiling.lines, tiling.width
            run(own_parts[tile], examples, tiling.rows_of(tile), strip)

        run_tiles(run_tile, tiling.tiles, (high - low) * like.numel())
        for output, part in parts.items():
            results[output][low:high] = _added(part)[: high - low]
    return [results[o] if o.kind == "a" else results[o].unsqueeze(1) for o in outputs]


def _kernel(
    contraction: Contraction,
    formula: Formula,
    keys: Tensor,
    operands: Operands,
    results: Mapping[Output, Tensor],
) -> Callable[..., None]:
    """The kernel with all that its tiles share."""
    like = operands.log_alpha
    gates = array(like), settings_of(formula, like.dtype), contraction.repeat
    factors = [_matrix(factor, like) for factor in operands[1:]]
    step = contraction.step or contraction.gates[1]
    place = key_array(keys), contraction.first, step
    shared = *place, *gates, *factors, _pair("y", results, like)
    sums = _pair("a", results, like)
    kernel = compiled(loops.contract_vectors, like.dtype, formula)

    def run(parts: Any, examples: Any, rows: Any, strip: tuple[int, int]) -> None:
        room = strip_room(prod(strip), contraction.repeat, 4, like)
        kernel(*shared, parts, sums, examples, rows, strip, *room)

    return run


def _matrix(factor: Tensor | None, like: Tensor) -> Any:
    """A factor as an array without its dimension for vectors; an empty one stands for None."""
    if factor is None:
        return nothing(like.dtype)
    return array(factor.reshape(factor.shape[0], factor.shape[-1]))


def _pair(kind: Kind, results: Mapping[Output, Tensor], like: Tensor) -> tuple[Any, Any]:
    """The arrays for the masks' and their slopes' results of a kind; empty ones for none."""
    found = [results.get(Output(kind, order)) for order in (0, 1)]
    values, slopes = [nothing(like.dtype) if t is None else array(t) for t in found]
    return values, slopes


def _parts_of_tiles(parts: Mapping[Output, Tensor], tiles: int, like: Tensor) -> list[Any]:
    """For each tile the arrays for its part of the inputs' gradients."""
    if not parts:
        return [_pair("x", parts, like)] * tiles
    return [_pair("x", {o: part[i] for o, part in parts.items()}, like) for i in range(tiles)]


def _added(parts: Tensor) -> Tensor:
    """The sum of all tiles' parts, always in the same order."""
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total
