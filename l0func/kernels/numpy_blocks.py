"""Philox in numpy: blocks of calls that fit the cache, computed in place."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor

from l0func.kernels.philox import LOW, MULTIPLIERS, ROUNDS, WEYL

Array: TypeAlias = Any
"""A numpy array."""

BLOCK = 12288
"""Calls in one block: smaller blocks wait for the interpreter, larger ones for memory."""


def _numpy_if_installed() -> Any:
    try:
        return import_module("numpy")
    except ImportError:
        return None


np: Any = _numpy_if_installed()
AVAILABLE = np is not None


def draws_by_numpy(streams: Tensor, calls: Sequence[int], as_unit: bool) -> Tensor:
    """As :func:`l0func.kernels.eager.eager_draws`, for plain tensors on the CPU."""
    batch = streams.shape[:-2]
    flat = streams.reshape(-1, 2).contiguous().numpy().view(np.uint64)
    counts = np.tile(np.asarray(calls, dtype=np.int64), batch.numel())
    ends = np.cumsum(counts)
    total = int(ends[-1]) if ends.size else 0
    out = torch.empty((total, 4), dtype=torch.float32 if as_unit else torch.int64)
    target = out.numpy()
    scratch = _scratch_of_thread()
    for start, stop in _block_bounds(counts.tolist()):
        seed, base = _seeds_and_bases(flat, counts, ends, start, stop)
        scratch.fill(target[start:stop], seed, base, start, as_unit)
    return out.reshape(*batch, sum(calls), 4)


def _block_bounds(counts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Each block's first call and its end; calls are numbered through all streams."""
    # A stream that would fill much of a block has blocks of its own: a block across streams needs
    # a key for each call.
    position, runs = 0, [0]
    for count in counts:
        if count >= BLOCK // 8:
            runs += [position, position + count]
        position += count
    for first, last in pairwise([*runs, position]):
        step = _block_size(last - first)
        for start in range(first, last, step):
            yield start, min(start + step, last)


def _block_size(calls: int) -> int:
    # Blocks of equal size: a short last one would cost nearly as much as a full one.
    blocks = max(round(calls / BLOCK), 1)
    return max(-(-calls // blocks), 1)


def _seeds_and_bases(
    flat: Array, counts: Array, ends: Array, start: int, stop: int
) -> tuple[Array, Array]:
    """Seeds and bases for the calls ``start`` to ``stop - 1``.

    A call's counter is its base plus its number. Both results have one entry if the block lies in
    one stream, and one for each call otherwise.
    """
    first, last = np.searchsorted(ends, (start, stop - 1), side="right")
    streams = slice(int(first), int(last) + 1)
    ends_here = ends[streams]
    origin = ends_here - counts[streams]
    seed = flat[streams, 0]
    base = flat[streams, 1] - origin.astype(np.uint64)
    if first == last:
        return seed, base
    spans = np.minimum(ends_here, stop) - np.maximum(origin, start)
    return np.repeat(seed, spans), np.repeat(base, spans)


# One scratch for each thread: with fresh buffers at every draw, page faults would take a quarter
# of the time for 10⁵ uniforms.
_threads = threading.local()


def _scratch_of_thread() -> _Scratch:
    scratch: _Scratch | None = getattr(_threads, "scratch", None)
    if scratch is None:
        scratch = _threads.scratch = _Scratch()
    return scratch


class _Scratch:
    """Buffers for one block of Philox calls; the ten rounds run in place on them."""

    def __init__(self) -> None:
        # _block_size rounds the number of blocks, so a block holds up to 3/2 BLOCK calls.
        size = BLOCK + BLOCK // 2
        self.index = np.arange(size, dtype=np.uint64)
        self.buffers = np.empty((3, 2, size), dtype=np.uint64)
        self.words = np.empty((size, 4), dtype=np.uint32)
        self.multipliers = np.array(MULTIPLIERS, dtype=np.uint64)[:, None]
        rounds = np.arange(ROUNDS, dtype=np.uint64)[:, None, None]
        steps = np.array(WEYL[::-1], dtype=np.uint64)[:, None]
        self.weyl = rounds * steps

    def fill(self, target: Array, seed: Array, base: Array, start: int, as_unit: bool) -> None:
        """Write one block's draws.

        Args:
            target: Where to write, shape ``(n, 4)``: int64 words or float32 uniforms.
            seed: Seeds, one for all calls or one for each.
            base: Bases, likewise; call i in the block has counter ``base + start + i``.
            start: The first call's number.
            as_unit: Whether to write uniforms.
        """
        size = target.shape[0]
        self._start_counters(base + np.uint64(start), size)
        self._run_rounds(seed, size)
        word = self.words[:size]
        if as_unit:
            _write_units(target, word)
        else:
            target[:] = word

    def _start_counters(self, first: Array, size: int) -> None:
        x, y, product = self.buffers[:, :, :size]
        counter = product[0]
        np.add(self.index[:size], first, out=counter)
        np.bitwise_and(counter, np.uint64(LOW), out=x[0])
        np.right_shift(counter, np.uint64(32), out=y[1])
        x[1] = 0
        y[0] = 0

    def _run_rounds(self, seed: Array, size: int) -> None:
        # x holds words 0 and 2, y holds words 3 and 1: in a round, word 0 meets word 3 and word 2
        # meets word 1.
        x, y, product = self.buffers[:, :, :size]
        low, shift = np.uint64(LOW), np.uint64(32)
        for keys in self._keys_of_rounds(seed):
            np.multiply(x, self.multipliers, out=product)
            np.right_shift(product, shift, out=x)
            np.bitwise_xor(x, y, out=x)
            np.bitwise_xor(x, keys, out=x)
            # The high halves of y hold garbage; here it is cleared from x.
            np.bitwise_and(x, low, out=x)
            x, y, product = x[::-1], product, y
        word = self.words[:size]
        word[:, 0] = x[0]
        word[:, 1] = y[1]
        word[:, 2] = x[1]
        word[:, 3] = y[0]

    def _keys_of_rounds(self, seed: Array) -> Any:
        low = np.uint64(LOW)
        first = np.stack((seed >> np.uint64(32), seed & low))
        if len(seed) == 1:
            return (first + self.weyl) & low
        # One round at a time: the keys of ten rounds for each call would not fit the cache.
        return ((first + step) & low for step in self.weyl)


def _write_units(target: Array, word: Array) -> None:
    # The word's upper 23 bits become the mantissa of a float in [1, 2). Subtracting the exact
    # 1 - 2**-24 moves it to the midpoint that philox.unit gives.
    np.right_shift(word, np.uint32(9), out=word)
    np.bitwise_or(word, np.uint32(0x3F800000), out=word)
    shift = np.float32(1 - 2.0**-24)
    np.subtract(word.view(np.float32), shift, out=target)
