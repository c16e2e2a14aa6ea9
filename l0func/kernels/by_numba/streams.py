"""Keys, uniforms and normals of many streams, one stream after another."""

from __future__ import annotations

from typing import Any

from l0func.kernels.by_numba.bits import bits_of
from l0func.kernels.by_numba.normal_pairs import cosine_and_sine, radius
from l0func.kernels.by_numba.numba_names import numpy as np
from l0func.kernels.by_numba.words import fill_words, unit

# Draws between two of a stream's words and their uniforms: they fit the first cache.
BLOCK = 2048


def fill_keys(keys: Any, first: Any, into: Any) -> None:
    """Fold numbers ``first[k]``, ``first[k] + 1`` ... into each of K keys.

    Args:
        keys: uint64, ``(K, 2)``.
        first: uint64, ``(K,)``.
        into: uint64, ``(K, 2 n)``; receives n keys for each.
    """
    for k in range(keys.shape[0]):
        fill_words(keys[k, 0], keys[k, 1] + first[k], into[k], into.shape[1] // 2)


def fill_uniforms(keys: Any, ends: Any, out: Any, first: Any, last: Any) -> None:
    """Draw from G streams in each of R rows.

    Args:
        keys: uint64, ``(R, G, 2)``.
        ends: int64, ``(G,)``; in a row, where each stream's draws end.
        out: float32, ``(R * ends[-1],)``; its places ``first`` to ``last - 1`` are written.
        first: The first place.
        last: The place after the last one.
    """
    buffer = np.empty(BLOCK // 2 + 2, np.uint64)
    words = buffer.view(np.uint32)
    row, place, g = begin_at(ends, first)
    position = first
    while position < last:
        begin = place - start_of(ends, g)
        count = min(BLOCK, ends[g] - place, last - position)
        fill_from(keys[row, g, 0], keys[row, g, 1], begin, count, buffer)
        part, skip = out[position : position + count], begin % 4
        for i in range(count):
            part[i] = unit(words[skip + i])
        position += count
        row, place, g = next_place(ends, row, place + count, g)


def fill_normals(keys: Any, ends: Any, out: Any, first: Any, last: Any) -> None:
    """As :func:`fill_uniforms`, with normals."""
    buffer = np.empty(BLOCK // 2 + 2, np.uint64)
    pairs = np.empty(BLOCK // 2 + 2, np.uint64)
    radii = np.empty(BLOCK // 2 + 2, np.float64)
    normals = pairs.view(np.float32)
    row, place, g = begin_at(ends, first)
    position = first
    while position < last:
        begin = place - start_of(ends, g)
        count = min(BLOCK, ends[g] - place, last - position)
        fill_from(keys[row, g, 0], keys[row, g, 1], begin, count, buffer)
        part, skip = out[position : position + count], begin % 4
        # Two loops: the compiler makes no vectors of one with all of this in it.
        for i in range((skip + count + 1) // 2):
            radii[i] = radius_of(buffer[i])
        for i in range((skip + count + 1) // 2):
            pairs[i] = normal_pair(radii[i], buffer[i])
        for i in range(count):
            part[i] = normals[skip + i]
        position += count
        row, place, g = next_place(ends, row, place + count, g)


def fill_from(seed: Any, offset: Any, begin: Any, count: Any, buffer: Any) -> None:
    """Write the words ``begin`` to ``begin + count - 1`` of a stream, after ``begin % 4`` more."""
    calls = (begin % 4 + count + 3) // 4
    fill_words(seed, offset + np.uint64(begin // 4), buffer, calls)


def begin_at(ends: Any, position: Any) -> Any:
    """The row, the place in it and the stream of a position in all rows."""
    row = position // max(ends[-1], 1)
    return next_place(ends, row, position - row * ends[-1], 0)


def next_place(ends: Any, row: Any, place: Any, g: Any) -> Any:
    """The row, the place and the stream of the next draw; stream g was the last one."""
    if place == ends[-1]:
        row, place, g = row + 1, 0, 0
    while g < ends.shape[0] and ends[g] <= place:
        g += 1
    return row, place, g


def start_of(ends: Any, g: Any) -> Any:
    """Where a stream's draws begin in a row."""
    return ends[g - 1] if g > 0 else 0


def radius_of(words: Any) -> Any:
    """The radius from the first of two words in a uint64."""
    u = (np.float64(words & np.uint64(0xFFFFFFFF)) + 0.5) * 2.3283064365386962890625e-10
    return radius(u)


def normal_pair(r: Any, words: Any) -> Any:
    """Two normals in float32, packed into a uint64, from a radius and the second word."""
    u = (np.float64(words >> np.uint64(32)) + 0.5) * 2.3283064365386962890625e-10
    cosine, sine = cosine_and_sine(6.283185307179586 * u)
    first, second = np.float32(r * cosine), np.float32(r * sine)
    return np.uint64(bits_of(first)) | (np.uint64(bits_of(second)) << np.uint64(32))
