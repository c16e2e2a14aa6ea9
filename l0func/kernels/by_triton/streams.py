"""Keys, uniforms and normals of many streams, a block of calls in a program."""

from __future__ import annotations

from typing import Any

from l0func.kernels.by_triton.triton_names import constexpr, tl
from l0func.kernels.by_triton.words import philox_words, uniforms_by_calls


def fill_uniforms(
    keys: Any, out: Any, count: Any, stride: Any, line: Any, blocks: Any, CALLS: constexpr
) -> None:
    """Draw from one stream in each row.

    Args:
        keys: int64; a row's key stands ``stride`` numbers behind that of the row before.
        out: float32; a row's draws begin ``line`` numbers behind those of the row before.
        count: Draws in a row.
        stride: See ``keys``.
        line: See ``out``.
        blocks: The number of blocks for each row.
        CALLS: Calls in a block.
    """
    row = (tl.program_id(0) // blocks).to(tl.int64)
    seed, offset, start = _block_of(keys, row, stride, blocks, CALLS)
    u = uniforms_by_calls(seed, offset, start + tl.arange(0, CALLS))
    i = start * 4 + tl.arange(0, 4 * CALLS)
    tl.store(out + row * line + i, u, mask=i < count)


def fill_normals(
    keys: Any, out: Any, count: Any, stride: Any, line: Any, blocks: Any, CALLS: constexpr
) -> None:
    """As :func:`fill_uniforms`, with normals.

    In float64 with one rounding at the end, as :func:`l0func.kernels.by_torch.normals`.
    """
    row = (tl.program_id(0) // blocks).to(tl.int64)
    seed, offset, start = _block_of(keys, row, stride, blocks, CALLS)
    w0, w1, w2, w3 = philox_words(seed, offset, start + tl.arange(0, CALLS))
    n0, n1 = _normal_pair(w0, w1)
    n2, n3 = _normal_pair(w2, w3)
    even = tl.interleave(n0, n2)
    odd = tl.interleave(n1, n3)
    i = start * 4 + tl.arange(0, 4 * CALLS)
    tl.store(out + row * line + i, tl.interleave(even, odd), mask=i < count)


def fold_numbers(keys: Any, data: Any, into: Any, count: Any, KEYS: constexpr) -> None:
    """Fold a number into each key.

    Args:
        keys: int64, ``(K, 2)``.
        data: int64, ``(K,)``.
        into: int64, ``(K, 2)``; receives the new keys.
        count: K.
        KEYS: Keys in a program.
    """
    i = tl.program_id(0).to(tl.int64) * KEYS + tl.arange(0, KEYS)
    is_own = i < count
    seed = tl.load(keys + 2 * i, mask=is_own, other=0)
    offset = tl.load(keys + 2 * i + 1, mask=is_own, other=0)
    number = tl.load(data + i, mask=is_own, other=0)
    w0, w1, w2, w3 = philox_words(seed, offset, number)
    tl.store(into + 2 * i, _joined(w0, w1), mask=is_own)
    tl.store(into + 2 * i + 1, _joined(w2, w3), mask=is_own)


def _block_of(keys: Any, row: Any, stride: Any, blocks: Any, CALLS: constexpr) -> Any:
    """The program's stream, and the first of its calls."""
    seed = tl.load(keys + row * stride)
    offset = tl.load(keys + row * stride + 1)
    block = (tl.program_id(0) % blocks).to(tl.int64)
    return seed, offset, block * CALLS


def _normal_pair(first: Any, second: Any) -> Any:
    """Two normals from two words, by the method of Box and Muller."""
    # Filled, because a plain number beside tensors may count as float32.
    full_turn = tl.full((1,), 6.283185307179586, tl.float64)
    u = (first.to(tl.float64) + 0.5) * 2.3283064365386963e-10
    v = (second.to(tl.float64) + 0.5) * 2.3283064365386963e-10
    radius = tl.sqrt(-2.0 * tl.log(u))
    angle = full_turn * v
    return (radius * tl.cos(angle)).to(tl.float32), (radius * tl.sin(angle)).to(tl.float32)


def _joined(low: Any, high: Any) -> Any:
    """The int64 of two words."""
    return (high.to(tl.int64) << 32) | low.to(tl.int64)
