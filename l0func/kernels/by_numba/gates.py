"""Draws of gates with their slopes, and moments, one gate after another."""

from __future__ import annotations

from typing import Any

from l0func.kernels.by_numba.numba_names import numpy as np
from l0func.kernels.by_numba.words import fill_words, unit


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


def draw_gates(keys: Any, first: Any, p: Any, q: Any, settings: Any, z: Any, slopes: Any) -> None:
    """Draw N gates from each of K keys.

    Args:
        keys: uint64, ``(K, 2)``.
        first: The first gate's position in every key's stream.
        p: The gates, prepared, ``(K, N)`` or ``(1, N)``.
        q: As p.
        settings: The formula's.
        z: Receives the gates, ``(K, N)``.
        slopes: Receives their slopes, ``(K, N)``, or ``(K, 0)`` for none.
    """
    count, several = z.shape[1], p.shape[0] > 1
    calls, skip = np.uint64(first // 4), first % 4
    buffer = np.empty(2 * ((skip + count + 3) // 4), np.uint64)
    words = buffer.view(np.uint32)
    for k in range(z.shape[0]):
        fill_words(keys[k, 0], keys[k, 1] + calls, buffer, buffer.size // 2)
        line = k if several else 0
        own_p, own_q, own_z = p[line], q[line], z[k]
        for i in range(count):
            own_z[i] = draw(unit(words[skip + i]), own_p[i], own_q[i], *settings)[0]
        own_slopes = slopes[k]
        for i in range(own_slopes.shape[0]):
            own_slopes[i] = draw(unit(words[skip + i]), own_p[i], own_q[i], *settings)[1]
