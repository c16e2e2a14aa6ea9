"""Philox4x32-10: four 32-bit words from a counter and a key, on integers, tensors or cache-sized
numpy blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

try:
    import numpy
except ImportError:
    _numpy: ModuleType | None = None
else:
    _numpy = numpy

Word = TypeVar("Word", int, Tensor)

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
LOW = 0xFFFFFFFF

# Calls in one block of numpy work: smaller blocks wait for the interpreter, larger ones for memory
# beyond the cache.
BLOCK = 12288


def _product(multiplier: int, word: Word) -> tuple[Word, Word]:
    """High and low half of a product of 32-bit words; what stands above their 32 bits is garbage."""
    # The product with multiplier - 2**32 stays within int64; overflow would be undefined once
    # compiled to C++.
    shifted = word * (multiplier - (1 << 32))
    return (shifted >> 32) + word, shifted


def philox(
    counter: tuple[Word, Word, Word, Word], key: tuple[Word, Word]
) -> tuple[Word, Word, Word, Word]:
    """Four words in [0, 2³²) from a counter of four words and a key of two.

    Source: Salmon, Moraes, Dror & Shaw (2011), "Parallel random numbers: as easy as 1, 2, 3".

    Args:
        counter: Four words, integers or int64 tensors that broadcast together.
        key: Two words, likewise.

    Returns:
        Four words, of the type and the broadcast shape of the arguments.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        high0, low0 = _product(MULTIPLIERS[0], c0)
        high1, low1 = _product(MULTIPLIERS[1], c2)
        # Only what is multiplied next must be clean.
        c0, c1, c2, c3 = (high1 ^ c1 ^ k0) & LOW, low1, (high0 ^ c3 ^ k1) & LOW, low0
        k0, k1 = (k0 + WEYL[0]) & LOW, (k1 + WEYL[1]) & LOW
    return c0, c1 & LOW, c2, c3 & LOW


def _counter_at(offset: Word, index: Word) -> tuple[Word, Word]:
    """Low and high word of ``offset + index`` modulo 2⁶⁴, without an overflow on the way."""
    low = (offset & LOW) + (index & LOW)
    high = ((offset >> 32) & LOW) + ((index >> 32) & LOW) + (low >> 32)
    return low & LOW, high & LOW


def as_int64(low: Word, high: Word) -> Word:
    """The signed 64-bit value of two words, without an overflow on the way."""
    signed = high - ((high >> 31) << 32)
    return signed * (1 << 32) + low


def call(seed: Word, offset: Word, index: Word) -> tuple[Word, Word, Word, Word]:
    """The four words of call number ``index`` of the stream ``(seed, offset)``."""
    low, high = _counter_at(offset, index)
    zero: Any = 0
    return philox((low, high, zero, zero), (seed & LOW, (seed >> 32) & LOW))


def folded(seed: Word, offset: Word, index: Word) -> tuple[Word, Word]:
    """The stream whose seed and offset are words 0-1 and 2-3 of call ``index``, as signed 64-bit
    values.
    """
    w0, w1, w2, w3 = call(seed, offset, index)
    return as_int64(w0, w1), as_int64(w2, w3)


def words(streams: Tensor, calls: int) -> Tensor:
    """The first words of streams in tensor operations: any device, any transform, any compiler.

    Args:
        streams: int64 streams, shape ``(*batch, 2)``.
        calls: How many calls of four words to make on each.

    Returns:
        int64 words in [0, 2³²), shape ``(*batch, calls, 4)``.
    """
    index = torch.arange(calls, dtype=torch.int64, device=streams.device)
    return torch.stack(call(streams[..., :1], streams[..., 1:], index), dim=-1)


def unit(word: Tensor) -> Tensor:
    """float32 midpoints of a lattice of width 2⁻²³ from words: uniform on the open interval (0,
    1).
    """
    # 23 bits, not 24: (2**24 - 1) + 0.5 rounds up in float32, and u == 1 makes logit(u) infinite.
    return ((word >> 9).to(torch.float32) + 0.5) * 2.0**-23


def eager(streams: Tensor, calls: Sequence[int], as_unit: bool) -> Tensor:
    """The first words of ``G`` streams in cache-sized blocks: by numpy where it is installed and
    the streams allow.

    Args:
        streams: int64 streams, shape ``(*batch, G, 2)``.
        calls: For each of the ``G`` streams, how many calls of four words to make.
        as_unit: Whether to give :func:`unit` of the words, bit for bit.

    Returns:
        int64 words or float32 uniforms, shape ``(*batch, sum(calls), 4)``: streams one after
        another.
    """
    if _numpy is not None and type(streams) is Tensor and streams.device.type == "cpu":
        return _numpy_blocks(_numpy, streams, calls, as_unit)
    return _tensor_blocks(streams, calls, as_unit)


def _tensor_blocks(streams: Tensor, calls: Sequence[int], as_unit: bool) -> Tensor:
    blocks: list[Tensor] = []
    for g, count in enumerate(calls):
        seed, offset = streams[..., g, :1], streams[..., g, 1:]
        for start in range(0, max(count, 1), BLOCK):
            index = torch.arange(
                start, min(start + BLOCK, count), dtype=torch.int64, device=streams.device
            )
            block = torch.stack(call(seed, offset, index), dim=-1)
            blocks.append(unit(block) if as_unit else block)
    return torch.cat(blocks, dim=-2)


def _numpy_blocks(np: Any, streams: Tensor, calls: Sequence[int], as_unit: bool) -> Tensor:
    batch = streams.shape[:-2]
    flat = streams.reshape(-1, 2).contiguous().numpy().view(np.uint64)
    counts = np.tile(np.asarray(calls, dtype=np.int64), batch.numel())
    ends = np.cumsum(counts)
    total = int(ends[-1]) if ends.size else 0
    out = torch.empty((total, 4), dtype=torch.float32 if as_unit else torch.int64)
    target = out.numpy()
    block = _scratch_block(np)
    for start, stop in _block_bounds(counts.tolist()):
        first, last = np.searchsorted(ends, (start, stop - 1), side="right")
        rows = slice(int(first), int(last) + 1)
        origin = ends[rows] - counts[rows]
        spans = np.minimum(ends[rows], stop) - np.maximum(origin, start)
        base = flat[rows, 1] - origin.astype(np.uint64)
        if rows.stop - rows.start > 1:
            seed, base = np.repeat(flat[rows, 0], spans), np.repeat(base, spans)
        else:
            seed = flat[rows, 0]
        block.fill(target[start:stop], seed, base, start, as_unit)
    return out.reshape(*batch, sum(calls), 4)


def _block_bounds(counts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where blocks begin and end, over streams laid one after another."""
    # A stream that would fill much of a block has blocks of its own: a block across streams needs
    # a key for each call.
    position, runs = 0, [0]
    for count in counts:
        if count >= BLOCK // 8:
            runs += [position, position + count]
        position += count
    for first, last in pairwise([*runs, position]):
        # Blocks of equal size: a short last one would cost nearly as much as a full one.
        step = max(-(-(last - first) // max(round((last - first) / BLOCK), 1)), 1)
        yield from ((start, min(start + step, last)) for start in range(first, last, step))


# One scratch block a thread: fresh half-megabyte buffers at every draw cost a quarter of a draw of
# 10⁵ in page faults.
_scratch = threading.local()


def _scratch_block(np: Any) -> _Block:
    block: _Block | None = getattr(_scratch, "block", None)
    if block is None:
        block = _scratch.block = _Block(np)
    return block


class _Block:
    """Buffers for one block of Philox calls, and the ten rounds in place on them."""

    def __init__(self, np: Any) -> None:
        self.np = np
        size = BLOCK + BLOCK // 2
        self.index = np.arange(size, dtype=np.uint64)
        self.buffers = np.empty((3, 2, size), dtype=np.uint64)
        self.words = np.empty((size, 4), dtype=np.uint32)
        self.multipliers = np.array(MULTIPLIERS, dtype=np.uint64)[:, None]
        rounds = np.arange(ROUNDS, dtype=np.uint64)[:, None, None]
        self.weyl = rounds * np.array(WEYL[::-1], dtype=np.uint64)[:, None]

    def fill(
        self,
        target: NDArray[Any],
        seed: NDArray[np.uint64],
        base: NDArray[np.uint64],
        start: int,
        as_unit: bool,
    ) -> None:
        """Write the calls ``base + start + (0, 1, ...)`` of the streams ``seed`` into ``target``,
        shape ``(n, 4)``.
        """
        np, size = self.np, target.shape[0]
        x, y, product = self.buffers[:, :, :size]
        low, shift = np.uint64(LOW), np.uint64(32)
        counter = product[0]
        np.add(self.index[:size], base + np.uint64(start), out=counter)
        np.bitwise_and(counter, low, out=x[0])
        np.right_shift(counter, shift, out=y[1])
        x[1], y[0] = 0, 0
        # x holds words 0 and 2, y holds words 3 and 1: each meets in place what the round combines
        # it with.
        first = np.stack((seed >> shift, seed & low))
        # One stream's ten pairs of keys in one go; a pair for each element of the block would not
        # fit the cache.
        schedule = (
            (first + self.weyl) & low
            if len(seed) == 1
            else ((first + step) & low for step in self.weyl)
        )
        for keys in schedule:
            np.multiply(x, self.multipliers, out=product)
            np.right_shift(product, shift, out=x)
            np.bitwise_xor(x, y, out=x)
            np.bitwise_xor(x, keys, out=x)
            # The high halves of y are never cleared; what they leave in x is.
            np.bitwise_and(x, low, out=x)
            x, y, product = x[::-1], product, y
        word = self.words[:size]
        word[:, 0], word[:, 1], word[:, 2], word[:, 3] = x[0], y[1], x[1], y[0]
        if not as_unit:
            target[:] = word
            return
        # A float of exponent 0 whose mantissa is the word's upper 23 bits, minus the exact 1 -
        # 2**-24: the midpoint.
        np.right_shift(word, np.uint32(9), out=word)
        np.bitwise_or(word, np.uint32(0x3F800000), out=word)
        np.subtract(word.view(np.float32), np.float32(1 - 2.0**-24), out=target)
