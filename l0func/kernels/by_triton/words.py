"""Philox4x32-10 on tiles, and uniforms from its words.

A tile by calls uses all four words that a call makes. A tile by entries makes one call for every
entry: four times the work, for any first position and for gates that several entries share.
"""

from __future__ import annotations

from typing import Any

from l0func.kernels.by_triton.triton_names import tl


def philox_words(seed: Any, offset: Any, call: Any) -> Any:
    """The four words of some calls, uint32, each in the broadcast shape of the arguments.

    Args:
        seed: The streams' seeds, int64.
        offset: Their offsets, int64.
        call: Numbers of calls, int64.
    """
    counter = offset + call
    w0 = counter.to(tl.uint32)
    w1 = (counter >> 32).to(tl.uint32)
    w2 = w0 * 0
    w3 = w0 * 0
    k0 = seed.to(tl.uint32)
    k1 = (seed >> 32).to(tl.uint32)
    for _ in tl.static_range(10):
        high0 = tl.umulhi(w0, 0xD2511F53)
        high1 = tl.umulhi(w2, 0xCD9E8D57)
        low0 = w0 * 0xD2511F53
        low1 = w2 * 0xCD9E8D57
        w0 = high1 ^ w1 ^ k0
        w2 = high0 ^ w3 ^ k1
        w1 = low1
        w3 = low0
        k0 = k0 + 0x9E3779B9
        k1 = k1 + 0xBB67AE85
    return w0, w1, w2, w3


def unit(word: Any) -> Any:
    """Uniforms of words, float32: as :func:`l0func.kernels.philox.unit`, bit for bit."""
    # The word's upper 23 bits become the mantissa of a float in [1, 2). Subtracting the exact
    # 1 - 2**-24 moves it to a lattice midpoint in (0, 1).
    bits = (word >> 9) | 0x3F800000
    return bits.to(tl.float32, bitcast=True) - 0.999999940395355224609375


def uniforms_by_calls(seed: Any, offset: Any, call: Any) -> Any:
    """Uniforms from whole calls: the last dimension is four times as long, in stream order."""
    w0, w1, w2, w3 = philox_words(seed, offset, call)
    even = tl.interleave(w0, w2)
    odd = tl.interleave(w1, w3)
    return unit(tl.interleave(even, odd))


def uniforms_by_entries(seed: Any, offset: Any, position: Any) -> Any:
    """The uniforms at some positions of the streams, int64."""
    w0, w1, w2, w3 = philox_words(seed, offset, position >> 2)
    place = position & 3
    first = tl.where(place == 0, w0, w1)
    last = tl.where(place == 2, w2, w3)
    return unit(tl.where(place < 2, first, last))
