"""Draws of gates in stream order: gates with slopes, masked weights, and sums over masks.

A program draws a block of whole calls from one key, or from one key after another.
"""

from __future__ import annotations

from typing import Any

from l0func.kernels.by_triton.triton_names import constexpr, tl
from l0func.kernels.by_triton.words import uniforms_by_calls

prepare: Any = None
"""A formula's function; kernels are compiled with it in this place."""

draw: Any = None
"""The same."""


def prepare_gates(
    log_alpha: Any, settings: Any, p: Any, q: Any, count: Any, GATES: constexpr
) -> None:
    """Compute what a gate needs once, whatever the number of its draws.

    Args:
        log_alpha: The locations, ``(N,)``.
        settings: The formula's.
        p: Receives the first number of each gate, ``(N,)``.
        q: Receives the second.
        count: N.
        GATES: Gates in a program.
    """
    i = tl.program_id(0).to(tl.int64) * GATES + tl.arange(0, GATES)
    is_own = i < count
    own_p, own_q = prepare(tl.load(log_alpha + i, mask=is_own, other=0.0), *settings)
    tl.store(p + i, own_p, mask=is_own)
    tl.store(q + i, own_q, mask=is_own)


def draw_gates(
    keys: Any,
    p: Any,
    q: Any,
    settings: Any,
    z: Any,
    slopes: Any,
    count: Any,
    line: Any,
    first: Any,
    blocks: Any,
    CALLS: constexpr,
) -> None:
    """Draw N gates, with slopes, from each of K keys.

    Args:
        keys: int64, ``(K, 2)``.
        p: The gates, prepared, ``(K, N)`` or ``(1, N)``.
        q: As p.
        settings: The formula's.
        z: Receives the gates, ``(K, N)``.
        slopes: Receives their slopes, ``(K, N)``.
        count: N.
        line: N where every key has gates of its own; 0 where all keys share them.
        first: The first gate's position in every key's stream.
        blocks: The number of blocks for each key.
        CALLS: Calls in a block.
    """
    program = tl.program_id(0)
    k = (program // blocks).to(tl.int64)
    u, i, is_own = _drawn_block(keys, k, first, program % blocks, count, CALLS)
    own_p = tl.load(p + k * line + i, mask=is_own, other=1.0)
    own_q = tl.load(q + k * line + i, mask=is_own, other=1.0)
    gate, slope = draw(u, own_p, own_q, *settings)
    tl.store(z + k * count + i, gate, mask=is_own)
    tl.store(slopes + k * count + i, slope, mask=is_own)


def mask_entries(
    keys: Any,
    p: Any,
    q: Any,
    settings: Any,
    a: Any,
    masked: Any,
    masked_slopes: Any,
    count: Any,
    repeat: Any,
    first: Any,
    blocks: Any,
    CALLS: constexpr,
    VALUES: constexpr,
    SLOPES: constexpr,
) -> None:
    """Write a weight times each key's masks, or times their slopes.

    Args:
        keys: int64, ``(K, 2)``.
        p: The gates, prepared, ``(N,)``.
        q: As p.
        settings: The formula's.
        a: The weight, ``(N * repeat,)``.
        masked: Receives the masked weights, ``(K, N * repeat)``.
        masked_slopes: Receives the weights times slopes.
        count: N.
        repeat: Consecutive entries that share a gate.
        first: The first gate's position in every key's stream.
        blocks: The number of blocks for each key.
        CALLS: Calls in a block.
        VALUES: Whether to write ``masked``.
        SLOPES: Whether to write ``masked_slopes``.
    """
    program = tl.program_id(0)
    k = (program // blocks).to(tl.int64)
    u, i, is_own = _drawn_block(keys, k, first, program % blocks, count, CALLS)
    own_p = tl.load(p + i, mask=is_own, other=1.0)
    own_q = tl.load(q + i, mask=is_own, other=1.0)
    gate, slope = draw(u, own_p, own_q, *settings)
    start = k * count * repeat
    for r in range(repeat):
        entry = i * repeat + r
        weight = tl.load(a + entry, mask=is_own, other=0.0)
        if VALUES:
            tl.store(masked + start + entry, weight * gate, mask=is_own)
        if SLOPES:
            tl.store(masked_slopes + start + entry, weight * slope, mask=is_own)


def sum_entries(
    keys: Any,
    p: Any,
    q: Any,
    settings: Any,
    products: Any,
    sums: Any,
    slope_sums: Any,
    batch: Any,
    count: Any,
    repeat: Any,
    first: Any,
    blocks: Any,
    CALLS: constexpr,
    VALUES: constexpr,
    SLOPES: constexpr,
) -> None:
    """Add products times masks, summed over keys; a program adds one entry for each gate.

    Args:
        keys: int64, ``(K, 2)``.
        p: The gates, prepared, ``(N,)``.
        q: As p.
        settings: The formula's.
        products: ``(K, N * repeat)``.
        sums: The products times masks are added here, ``(N * repeat,)``.
        slope_sums: The products times slopes are added here.
        batch: K.
        count: N.
        repeat: Consecutive entries that share a gate.
        first: The first gate's position in every key's stream.
        blocks: The number of blocks for each key.
        CALLS: Calls in a block.
        VALUES: Whether to add to ``sums``.
        SLOPES: Whether to add to ``slope_sums``.
    """
    block = tl.program_id(0) % blocks
    u, i, is_own = _drawn_block(keys, 0, first, block, count, CALLS)
    entry = i * repeat + tl.program_id(0) // blocks
    own_p = tl.load(p + i, mask=is_own, other=1.0)
    own_q = tl.load(q + i, mask=is_own, other=1.0)
    total = u * 0.0
    slope_total = u * 0.0
    for k in range(batch):
        u, i, is_own = _drawn_block(keys, k, first, block, count, CALLS)
        gate, slope = draw(u, own_p, own_q, *settings)
        start = tl.cast(k, tl.int64) * count * repeat
        product = tl.load(products + start + entry, mask=is_own, other=0.0)
        total += product * gate
        slope_total += product * slope
    if VALUES:
        before = tl.load(sums + entry, mask=is_own, other=0.0)
        tl.store(sums + entry, before + total, mask=is_own)
    if SLOPES:
        before = tl.load(slope_sums + entry, mask=is_own, other=0.0)
        tl.store(slope_sums + entry, before + slope_total, mask=is_own)


def _drawn_block(keys: Any, k: Any, first: Any, block: Any, count: Any, CALLS: constexpr) -> Any:
    """The uniforms of one block of calls, their gates, and whether these are among the N."""
    seed = tl.load(keys + 2 * k)
    offset = tl.load(keys + 2 * k + 1)
    start = tl.cast(block, tl.int64) * CALLS
    call = start + tl.arange(0, CALLS)
    u = uniforms_by_calls(seed, offset, call + first // 4)
    i = start * 4 + tl.arange(0, 4 * CALLS) - first % 4
    return u, i, (i >= 0) & (i < count)
