"""Philox4x32-10: four 32-bit words from a counter and a key, on Python integers or tensors."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

Word = TypeVar("Word", int, Tensor)

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
LOW = 0xFFFFFFFF


def _wide_product(multiplier: int, word: Word) -> tuple[Word, Word]:
    """The high and low words of a 64-bit product; their bits above the 32nd are garbage."""
    # The product with multiplier - 2**32 stays within int64; overflow would be undefined once
    # compiled to C++.
    shifted = word * (multiplier - (1 << 32))
    return (shifted >> 32) + word, shifted


def philox(
    counter: tuple[Word, Word, Word, Word], key: tuple[Word, Word]
) -> tuple[Word, Word, Word, Word]:
    """Four words in [0, 2³²) from a counter (four words) and a key (two words).

    Source: Salmon, Moraes, Dror & Shaw (2011), "Parallel random numbers: as easy as 1, 2, 3".

    Args:
        counter: Four words, integers or int64 tensors that broadcast together.
        key: Two words, likewise.

    Returns:
        Four words with the arguments' type and broadcast shape.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        high0, low0 = _wide_product(MULTIPLIERS[0], c0)
        high1, low1 = _wide_product(MULTIPLIERS[1], c2)
        # The next round multiplies c0 and c2, so these are cleaned of garbage.
        c0, c1 = (high1 ^ c1 ^ k0) & LOW, low1
        c2, c3 = (high0 ^ c3 ^ k1) & LOW, low0
        k0 = (k0 + WEYL[0]) & LOW
        k1 = (k1 + WEYL[1]) & LOW
    return c0, c1 & LOW, c2, c3 & LOW


def _counter_at(offset: Word, index: Word) -> tuple[Word, Word]:
    """The low and high word of ``offset + index`` modulo 2⁶⁴, without an overflow on the way."""
    low = (offset & LOW) + (index & LOW)
    carry = low >> 32
    high = ((offset >> 32) & LOW) + ((index >> 32) & LOW)
    return low & LOW, (high + carry) & LOW


def as_int64(low: Word, high: Word) -> Word:
    """The signed 64-bit value of two words, without an overflow on the way."""
    signed = high - ((high >> 31) << 32)
    return signed * (1 << 32) + low


def call(seed: Word, offset: Word, index: Word) -> tuple[Word, Word, Word, Word]:
    """The four words of call number ``index`` in the stream ``(seed, offset)``."""
    low, high = _counter_at(offset, index)
    zero: Any = 0
    key = (seed & LOW, (seed >> 32) & LOW)
    return philox((low, high, zero, zero), key)


def folded(seed: Word, offset: Word, index: Word) -> tuple[Word, Word]:
    """A new stream's seed and offset: words 0-1 and 2-3 of call ``index``, as int64."""
    w0, w1, w2, w3 = call(seed, offset, index)
    return as_int64(w0, w1), as_int64(w2, w3)


def words(streams: Tensor, calls: int) -> Tensor:
    """The first words in each stream, in tensor operations: for any device and transform.

    Args:
        streams: int64 streams, shape ``(*batch, 2)``.
        calls: Calls on each stream; a call makes four words.

    Returns:
        int64 words in [0, 2³²), shape ``(*batch, calls, 4)``.
    """
    index = torch.arange(calls, dtype=torch.int64, device=streams.device)
    seed, offset = streams[..., :1], streams[..., 1:]
    return torch.stack(call(seed, offset, index), dim=-1)


def unit(word: Tensor) -> Tensor:
    """Uniforms on the open interval (0, 1) from words: float32 midpoints of a 2⁻²³ lattice."""
    # 23 bits, not 24: (2**24 - 1) + 0.5 rounds up in float32, and u == 1 makes logit(u) infinite.
    return ((word >> 9).to(torch.float32) + 0.5) * 2.0**-23
