"""Philox4x32-10 in a loop that the compiler turns into vectors, and uniforms from its words."""

from __future__ import annotations

from typing import Any

from l0func.kernels.by_numba.bits import float_of
from l0func.kernels.by_numba.numba_names import numpy as np

# One call's four words as two numbers of 64 bits: stores of single words, four apart, would cost
# three quarters of the speed.


def fill_words(seed: Any, offset: Any, into: Any, calls: Any) -> None:
    """Write the words of calls ``offset`` to ``offset + calls - 1``.

    Args:
        seed: The stream's seed, uint64.
        offset: The first call's counter, uint64.
        into: uint64, at least ``2 * calls``; read as uint32 it holds the words in order.
        calls: Their number.
    """
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    multiplier0, multiplier1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
    weyl0, weyl1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
    first0, first1 = seed & low, seed >> shift
    for c in range(calls):
        counter = offset + np.uint64(c)
        w0, w1 = counter & low, counter >> shift
        w2, w3 = np.uint64(0), np.uint64(0)
        k0, k1 = first0, first1
        for _ in range(10):
            product0, product1 = w0 * multiplier0, w2 * multiplier1
            w0, w1 = (product1 >> shift) ^ w1 ^ k0, product1 & low
            w2, w3 = (product0 >> shift) ^ w3 ^ k1, product0 & low
            k0, k1 = (k0 + weyl0) & low, (k1 + weyl1) & low
        into[2 * c] = w0 | (w1 << shift)
        into[2 * c + 1] = w2 | (w3 << shift)


def unit(word: Any) -> Any:
    """The uniform of a word, float32: as :func:`l0func.kernels.philox.unit`, bit for bit."""
    # The word's upper 23 bits become the mantissa of a float in [1, 2). Subtracting the exact
    # 1 - 2**-24 moves it to a lattice midpoint in (0, 1).
    bits = (word >> np.uint32(9)) | np.uint32(0x3F800000)
    return float_of(np.uint32(bits)) - np.float32(1.0 - 2.0**-24)
