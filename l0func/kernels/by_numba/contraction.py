"""Draws that are used and forgotten: products with a masked weight, and masked weights.

Every row of gates goes into a small buffer, and one simple loop for each result reads it. A loop
over more arrays would not become vectors.
"""

from __future__ import annotations

from typing import Any

from l0func.kernels.by_numba.gates import draw
from l0func.kernels.by_numba.numba_names import numpy as np
from l0func.kernels.by_numba.words import fill_words, unit


def contract_vectors(
    keys: Any,
    first: Any,
    p: Any,
    q: Any,
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
    lines: Any,
) -> None:
    """Contract with one vector for each key, for some rows of the weight and some keys.

    An empty array stands for a result or a factor that is not there.

    Args:
        keys: uint64, ``(B, 2)``.
        first: The position of the weight's first gate in every key's stream.
        p: The gates, prepared, ``(O, gates of a row)``.
        q: As p.
        settings: The formula's.
        repeat: Consecutive entries of a row that share a gate.
        a: The weight, ``(O, I)``.
        x: The inputs, ``(B, I)``.
        g: The gradients in the outputs, ``(B, O)``.
        ys: For masks and for their slopes: an array that receives outputs, ``(B, O)``.
        xs: Likewise for these rows' part of the inputs' gradients, ``(examples, I)``.
        sums: Likewise; the weight's gradients are added here, ``(O, I)``.
        examples: The first key, and the one after the last.
        rows: The first row, and the one after the last.
        lines: The rows of one draw; several, where rows are short.
    """
    (low, high), (start, stop) = examples, rows
    line, columns = p.shape[1], p.shape[1] * repeat
    xs[0][:] = 0.0
    xs[1][:] = 0.0
    buffer = np.empty(2 * ((lines * line + 6) // 4), np.uint64)
    words = buffer.view(np.uint32)
    z = np.empty(lines * line, p.dtype)
    entries = z if repeat == 1 else np.empty(lines * columns, p.dtype)
    for top in range(start, stop, lines):
        height = min(lines, stop - top)
        count, position = height * line, first + top * line
        skip, call = position % 4, np.uint64(position // 4)
        own_p = p[top : top + height].reshape(count)
        own_q = q[top : top + height].reshape(count)
        for b in range(low, high):
            fill_words(keys[b, 0], keys[b, 1] + call, buffer, (skip + count + 3) // 4)
            for order in range(2):
                to_y, to_x, to_a = ys[order], xs[order], sums[order]
                if to_y.size + to_x.size + to_a.size == 0:
                    continue
                if order == 0:
                    for i in range(count):
                        z[i] = draw(unit(words[skip + i]), own_p[i], own_q[i], *settings)[0]
                else:
                    for i in range(count):
                        z[i] = draw(unit(words[skip + i]), own_p[i], own_q[i], *settings)[1]
                if repeat > 1:
                    for i in range(count):
                        for r in range(repeat):
                            entries[i * repeat + r] = z[i]
                for row in range(height):
                    o = top + row
                    mask = entries[row * columns : (row + 1) * columns]
                    if to_y.size > 0:
                        own_a, own_x, total = a[o], x[b], p.dtype.type(0)
                        for i in range(columns):
                            total += mask[i] * own_a[i] * own_x[i]
                        to_y[b, o] = total
                    if to_x.size > 0:
                        own_a, own_xs, factor = a[o], to_x[b - low], g[b, o]
                        for i in range(columns):
                            own_xs[i] += factor * own_a[i] * mask[i]
                    if to_a.size > 0:
                        own_x, own_sums, factor = x[b], to_a[o], g[b, o]
                        for i in range(columns):
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
    gates: Any,
    size: Any,
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
        gates: The first gate, and the one after the last.
        size: The gates of one draw.
    """
    start, stop = gates
    buffer = np.empty(2 * ((size + 6) // 4), np.uint64)
    words = buffer.view(np.uint32)
    z = np.empty(size, p.dtype)
    entries = z if repeat == 1 else np.empty(size * repeat, p.dtype)
    for top in range(start, stop, size):
        count, position = min(size, stop - top), first + top
        skip, call = position % 4, np.uint64(position // 4)
        own_p, own_q = p[top : top + count], q[top : top + count]
        left, right = top * repeat, (top + count) * repeat
        for b in range(keys.shape[0]):
            fill_words(keys[b, 0], keys[b, 1] + call, buffer, (skip + count + 3) // 4)
            for order in range(2):
                to_masked, to_sum = masked[order], sums[order]
                if to_masked.size + to_sum.size == 0:
                    continue
                if order == 0:
                    for i in range(count):
                        z[i] = draw(unit(words[skip + i]), own_p[i], own_q[i], *settings)[0]
                else:
                    for i in range(count):
                        z[i] = draw(unit(words[skip + i]), own_p[i], own_q[i], *settings)[1]
                if repeat > 1:
                    for i in range(count):
                        for r in range(repeat):
                            entries[i * repeat + r] = z[i]
                if to_masked.size > 0:
                    own_a, into = a[left:right], to_masked[b, left:right]
                    for i in range(right - left):
                        into[i] = own_a[i] * entries[i]
                if to_sum.size > 0:
                    factor, into = products[b, left:right], to_sum[left:right]
                    for i in range(right - left):
                        into[i] += factor[i] * entries[i]
