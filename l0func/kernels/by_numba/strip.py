"""The memory in which a contraction's kernel draws one strip of gates after another."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from l0func.kernels.by_numba.compiled import REALS
from l0func.kernels.by_numba.numba_names import numpy as np


def strip_room(gates: int, repeat: int, rows: int, like: Tensor) -> tuple[Any, Any, Any]:
    """Three arrays, for one thread.

    Args:
        gates: The most gates of a strip.
        repeat: Consecutive entries that share a gate.
        rows: Numbers to keep for each gate.
        like: A tensor in the gates' dtype.

    Returns:
        Room for a strip's words; for ``rows`` numbers of each gate; and, where gates repeat, for
        the masks and slopes of its entries.
    """
    real = REALS[like.dtype]
    words = np.empty(2 * ((gates + 6) // 4), np.uint64)
    spread = np.empty((2, 0 if repeat == 1 else gates * repeat), real)
    return words, np.empty((rows, gates), real), spread
