"""Draws that are used and forgotten: products with a masked weight, and masked weights.

Each strip of gates goes into a small buffer, and one simple loop for each result reads it. A loop
over more arrays would not become vectors. The buffers are the callers' ``room``: where a kernel
allocates nothing, numba counts no references to its slices.
"""

from __future__ import annotations

from typing import Any

from l0func.kernels.by_numba.gates import draw, prepare
from l0func.kernels.by_numba.numba_names import numpy as np
from l0func.kernels.by_numba.words import fill_words, unit


def draw_strip(
    seed: Any,
    offset: Any,
    position: Any,
    p: Any,
    q: Any,
    settings: Any,
    repeat: Any,
    orders: Any,
    buffer: Any,
    gates: Any,
    masks: Any,
) -> None:
    """Draw a strip of gates once, for their values, their slopes or both.

    Args:
        seed: The key's seed, uint64.
        offset: The key's offset, uint64.
        position: The first gate's position in the key's stream.
        p: The gates, prepared, ``(n,)``.
        q: As p.
        settings: The formula's.
        repeat: Consecutive entries that share a gate.
        orders: Whether values are asked for, and whether slopes are.
        buffer: uint64, room for the words.
        gates: Receives values and slopes, ``(2, n or more)``.
        masks: Receives values and slopes of entries, ``(2, n * repeat or more)``, where gates
            repeat.
    """
    count, skip, words = p.shape[0], position % 4, buffer.view(np.uint32)
    z, slopes = gates[0], gates[1]
    fill_words(seed, offset + np.uint64(position // 4), buffer, (skip + count + 3) // 4)
    if orders[0] and orders[1]:
        for i in range(count):
            z[i], slopes[i] = draw(unit(words[skip + i]), p[i], q[i], *settings)
    elif orders[0]:
        for i in range(count):
            z[i] = draw(unit(words[skip + i]), p[i], q[i], *settings)[0]
    else:
        for i in range(count):
            slopes[i] = draw(unit(words[skip + i]), p[i], q[i], *settings)[1]
    if repeat > 1:
        for order in range(2):
            own, mask = gates[order], masks[order]
            for i in range(count if orders[order] else 0):
                for r in range(repeat):
                    mask[i * repeat + r] = own[i]


def contract_vectors(
    keys: Any,
    first: Any,
    step: Any,
    la: Any,
    settings: Any,
    repeat: Any,
    a: Any,
    x: Any,
    g: Any,
    ys: Any,
    xs: Any,
    sums: Any,
    examples: Any,
    rows: Any,
    strip: Any,
    buffer: Any,
    room: Any,
    spread: Any,
) -> None:
    """Contract with one vector for each key, for some rows of the weight and some keys.

    An empty array stands for a result or a factor that is not there.

    Args:
        keys: uint64, ``(B, 2)``.
        first: The position of the weight's first gate in every key's stream.
        step: From one row's first gate to the next row's; several rows of one draw follow each
            other.
        la: Locations, ``(O, gates of a row)``.
        settings: The formula's.
        repeat: Consecutive entries of a row that share a gate.
        a: The weight, ``(O, I)``.
        x: The inputs, ``(B, I)``.
        g: The gradients in the outputs, ``(B, O)``.
        ys: For masks and for their slopes: an array to which outputs are added, ``(B, O)``.
        xs: Likewise for these rows' part of the inputs' gradients, ``(examples, I)``.
        sums: Likewise; the weight's gradients are added here, ``(O, I)``.
        examples: The first key, and the one after the last.
        rows: The first row, and the one after the last.
        strip: The rows of one draw, and its gates in each; several rows are whole ones.
        buffer: uint64, room for a strip's words.
        room: Room for a strip's prepared gates, gates and slopes, ``(4, gates)``.
        spread: Where gates repeat: room for a strip's masks and slopes, ``(2, entries)``.
    """
    (low, high), (start, stop), (lines, width) = examples, rows, strip
    line, flat = la.shape[1], la.reshape(la.size)
    xs[0][:] = 0.0
    xs[1][:] = 0.0
    orders = (
        ys[0].size + xs[0].size + sums[0].size > 0,
        ys[1].size + xs[1].size + sums[1].size > 0,
    )
    p, q, gates = room[0], room[1], room[2:4]
    masks = gates if repeat == 1 else spread
    for top in range(start, stop, lines):
        height = min(lines, stop - top)
        for left in range(0, line, width):
            columns = min(width, line - left)
            count, place = height * columns, top * line + left
            for i in range(count):
                p[i], q[i] = prepare(flat[place + i], *settings)
            own_p, own_q = p[:count], q[:count]
            entries, begin = columns * repeat, left * repeat
            for b in range(low, high):
                drawn = own_p, own_q, settings, repeat, orders, buffer, gates, masks
                draw_strip(keys[b, 0], keys[b, 1], first + top * step + left, *drawn)
                for order in range(2):
                    to_y, to_x, to_a = ys[order], xs[order], sums[order]
                    for row in range(height if orders[order] else 0):
                        o = top + row
                        mask = masks[order, row * entries : (row + 1) * entries]
                        if to_y.size > 0:
                            own_a = a[o, begin : begin + entries]
                            own_x, total = x[b, begin : begin + entries], la.dtype.type(0)
                            for i in range(entries):
                                total += mask[i] * own_a[i] * own_x[i]
                            to_y[b, o] += total
                        if to_x.size > 0:
                            own_a, factor = a[o, begin : begin + entries], g[b, o]
                            own_xs = to_x[b - low, begin : begin + entries]
                            for i in range(entries):
                                own_xs[i] += factor * own_a[i] * mask[i]
                        if to_a.size > 0:
                            own_x, factor = x[b, begin : begin + entries], g[b, o]
                            own_sums = to_a[o, begin : begin + entries]
                            for i in range(entries):
                                own_sums[i] += factor * own_x[i] * mask[i]


def mask_entries(
    keys: Any,
    first: Any,
    p: Any,
    q: Any,
    settings: Any,
    repeat: Any,
    a: Any,
    products: Any,
    masked: Any,
    sums: Any,
    own: Any,
    buffer: Any,
    room: Any,
    spread: Any,
) -> None:
    """Masked weights, and sums of products with masks over keys, for some gates.

    An empty array stands for a result or a factor that is not there.

    Args:
        keys: uint64, ``(B, 2)``.
        first: The position of the weight's first gate in every key's stream.
        p: The gates, prepared, ``(N,)``.
        q: As p.
        settings: The formula's.
        repeat: Consecutive entries that share a gate.
        a: The weight, ``(N * repeat,)``.
        products: For each key and entry a number, ``(B, N * repeat)``.
        masked: For masks and for their slopes: an array that receives masked weights,
            ``(B, N * repeat)``.
        sums: Likewise; products times masks are added here, ``(N * repeat,)``.
        own: The first gate, and the one after the last.
        buffer: uint64, room for the words of one draw.
        room: Room for the gates and slopes of one draw, ``(2, gates)``.
        spread: Where gates repeat: room for its masks and slopes, ``(2, entries)``.
    """
    (start, stop), size = own, room.shape[1]
    orders = masked[0].size + sums[0].size > 0, masked[1].size + sums[1].size > 0
    masks = room if repeat == 1 else spread
    for top in range(start, stop, size):
        last = min(top + size, stop)
        own_p, own_q = p[top:last], q[top:last]
        left, right = top * repeat, last * repeat
        for b in range(keys.shape[0]):
            drawn = own_p, own_q, settings, repeat, orders, buffer, room, masks
            draw_strip(keys[b, 0], keys[b, 1], first + top, *drawn)
            for order in range(2):
                to_masked, to_sum, mask = masked[order], sums[order], masks[order]
                if to_masked.size > 0:
                    own_a, into = a[left:right], to_masked[b, left:right]
                    for i in range(right - left):
                        into[i] = own_a[i] * mask[i]
                if to_sum.size > 0:
                    factor, into = products[b, left:right], to_sum[left:right]
                    for i in range(right - left):
                        into[i] += factor[i] * mask[i]
