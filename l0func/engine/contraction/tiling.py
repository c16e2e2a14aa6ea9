"""The sizes of chunks: a batch of contractions is cut so that each chunk fits the cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from l0func.engine.contraction.chunks import Contraction

# The most gates in a chunk: a core's caches hold them beside the operands. The compiled kernel
# keeps draws in registers, so its chunks can be larger.
EAGER, COMPILED = 1 << 18, 1 << 20


class Block(NamedTuple):
    """Some groups in the weight, and some rows in each."""

    groups: slice
    weight_rows: slice


@dataclass(frozen=True)
class Tiling:
    """A contraction cut into chunks: some examples, and a block of the weight.

    Args:
        contraction: The sizes.
        batch: Examples, one for each key.
        vectors: Input vectors for each key.
        examples: Examples in a chunk; the last chunk is padded to as many.
        blocks: Blocks that together cover the weight.
        planes: 4 if each of a generator call's four words has its own plane, else 1.
    """

    contraction: Contraction
    batch: int
    vectors: int
    examples: int
    blocks: tuple[Block, ...]
    planes: int

    def batches(self) -> Iterator[slice]:
        """The examples of one chunk after another."""
        for start in range(0, self.batch, self.examples):
            yield slice(start, min(start + self.examples, self.batch))

    def position(self, block: Block) -> int:
        """The position of the block's first gate in a key's stream."""
        _, weight_rows, line = self.contraction.gates
        row = block.groups.start * weight_rows + block.weight_rows.start
        return self.contraction.first + row * line

    def split(self, t: Tensor) -> list[Tensor]:
        """A tensor as its planes."""
        if self.planes == 1:
            return [t]
        *leading, _ = t.shape
        by_word = t.reshape(*leading, -1, self.planes)
        return [plane.contiguous() for plane in by_word.unbind(-1)]

    def joined(self, planes: list[Tensor]) -> Tensor:
        """The inverse of :meth:`split`."""
        if self.planes == 1:
            return planes[0]
        return torch.stack(planes, dim=-1).flatten(-2)


def tile(contraction: Contraction, batch: int, vectors: int, compiled: bool) -> Tiling:
    """The tiling for a contraction.

    Args:
        contraction: The sizes.
        batch: The number of keys.
        vectors: Input vectors for each key.
        compiled: Whether the compiled kernel runs.
    """
    limit = COMPILED if compiled else EAGER
    blocks = tuple(_cut_weight(contraction.gates, limit))
    size = max(_gates_in(blocks[0], contraction), 1)
    examples = max(1, min(batch, limit // size))
    planes = 4 if compiled and vectors == 1 and _is_planar(contraction) else 1
    return Tiling(contraction, batch, vectors, examples, blocks, planes)


def _is_planar(contraction: Contraction) -> bool:
    """Whether each weight row uses whole generator calls, and one gate for each entry."""
    line, first = contraction.gates[2], contraction.first
    return contraction.repeat == 1 and line % 4 == 0 and first % 4 == 0


def _gates_in(block: Block, contraction: Contraction) -> int:
    groups = block.groups.stop - block.groups.start
    weight_rows = block.weight_rows.stop - block.weight_rows.start
    return groups * weight_rows * contraction.gates[2]


def _cut_weight(gates: tuple[int, int, int], limit: int) -> Iterator[Block]:
    groups, weight_rows, line = gates
    if groups > 1:
        step = max(1, limit // max(weight_rows * line, 1))
        for start in range(0, groups, step):
            stop = min(start + step, groups)
            yield Block(slice(start, stop), slice(0, weight_rows))
        return
    step = max(1, limit // max(line, 1))
    # Every block starts at a whole call of the generator.
    step = weight_rows if step >= weight_rows else max(step // 4 * 4, 4)
    for start in range(0, weight_rows, step):
        stop = min(start + step, weight_rows)
        yield Block(slice(0, 1), slice(start, stop))
