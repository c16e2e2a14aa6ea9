"""Draws of gates with their slopes, and moments, one gate after another."""

from __future__ import annotations

from typing import Any

from l0func.kernels.by_numba.numba_names import numpy as np
from l0func.kernels.by_numba.words import fill_words, unit

TILE = 4096
"""Gates at once: their words and prepared locations stay in the cache. A multiple of four."""


def prepare(la: Any, *settings: Any) -> Any:
    """A formula's function; kernels are compiled with it in this place."""
    raise NotImplementedError


def draw(u: Any, p: Any, q: Any, *settings: Any) -> Any:
    """A formula's function; kernels are compiled with it in this place."""
    raise NotImplementedError


def tails(c: Any, p: Any, q: Any, *settings: Any) -> Any:
    """A formula's function; kernels are compiled with it in this place."""
    raise NotImplementedError


def prepare_gates(la: Any, settings: Any, p: Any, q: Any) -> None:
    """Prepare every gate."""
    for i in range(la.shape[0]):
        p[i], q[i] = prepare(la[i], *settings)


def draw_gates(keys: Any, first: Any, la: Any, settings: Any, z: Any, slopes: Any) -> None:
    """Draw N gates from each of K keys.

    Args:
        keys: uint64, ``(K, 2)``.
        first: The first gate's position in every key's stream.
        la: Locations, ``(K, N)`` or ``(1, N)``.
        settings: The formula's.
        z: Receives the gates, ``(K, N)``.
        slopes: Receives their slopes, ``(K, N)``.
    """
    several, calls, skip = la.shape[0] > 1, np.uint64(first // 4), first % 4
    buffer = np.empty(2 * (TILE // 4 + 1), np.uint64)
    words = buffer.view(np.uint32)
    p, q = np.empty(TILE, la.dtype), np.empty(TILE, la.dtype)
    for start in range(0, z.shape[1], TILE):
        size = min(TILE, z.shape[1] - start)
        used = (skip + size + 3) // 4
        for k in range(z.shape[0]):
            if several or k == 0:
                own_la = la[k, start : start + size]
                for i in range(size):
                    p[i], q[i] = prepare(own_la[i], *settings)
            fill_words(keys[k, 0], keys[k, 1] + calls + np.uint64(start // 4), buffer, used)
            own_z, own_slopes = z[k, start : start + size], slopes[k, start : start + size]
            for i in range(size):
                # Times one: the uniform in the type of the gates.
                u = unit(words[skip + i]) * 1.0
                own_z[i], own_slopes[i] = draw(u, p[i], q[i], *settings)


def gates_at(u: Any, la: Any, settings: Any, z: Any, slopes: Any) -> None:
    """The gates at given probabilities.

    Args:
        u: Probabilities, ``(K, N)``.
        la: Locations, ``(K, N)`` or ``(1, N)``.
        settings: The formula's.
        z: Receives the gates, ``(K, N)``.
        slopes: Receives their slopes, ``(K, N)``.
    """
    several = la.shape[0] > 1
    p, q = np.empty(TILE, la.dtype), np.empty(TILE, la.dtype)
    for start in range(0, z.shape[1], TILE):
        size = min(TILE, z.shape[1] - start)
        for k in range(z.shape[0]):
            if several or k == 0:
                own_la = la[k, start : start + size]
                for i in range(size):
                    p[i], q[i] = prepare(own_la[i], *settings)
            own_u = u[k, start : start + size]
            own_z, own_slopes = z[k, start : start + size], slopes[k, start : start + size]
            for i in range(size):
                own_z[i], own_slopes[i] = draw(own_u[i], p[i], q[i], *settings)
