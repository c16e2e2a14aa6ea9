"""Keys, uniforms and normals from streams, as torch operations; a part of :mod:`.by_torch`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from l0func.kernels import philox

Uniforms: TypeAlias = Callable[[Tensor, Sequence[int]], Tensor]
"""As :func:`uniforms`."""

BLOCK = 12288
"""Calls in one block: larger ones wait for memory."""


def split(keys: Tensor, num: int) -> Tensor:
    """``num`` new keys from each key, ``(*batch, num, 2)``: the numbers 0 to num - 1 folded in."""
    numbers = torch.arange(num, dtype=torch.int64, device=keys.device)
    return fold(keys.unsqueeze(-2), numbers)


def fold(keys: Tensor, data: Tensor) -> Tensor:
    """New keys, ``(*batch, 2)``, from keys ``(*batch, 2)`` and numbers ``(*batch,)``.

    The two batch shapes broadcast. The numbers are int64.
    """
    folded = philox.folded(keys[..., 0], keys[..., 1], data)
    return torch.stack(folded, dim=-1)


def uniforms(keys: Tensor, counts: Sequence[int]) -> Tensor:
    """The first uniforms of G streams, one stream after another.

    Args:
        keys: ``(*batch, G, 2)``.
        counts: For each of the G streams its number of uniforms.

    Returns:
        float32, ``(*batch, sum(counts))``.
    """
    parts = [_uniforms_of(keys[..., g, :], count) for g, count in enumerate(counts)]
    return torch.cat(parts, dim=-1)


def uniform_runs(uniforms: Uniforms, keys: Tensor, starts: Tensor, length: int) -> Tensor:
    """Uniforms from several positions in every stream on, ``(*batch, len(starts), length)``.

    Args:
        uniforms: As :func:`uniforms`.
        keys: ``(*batch, 2)``.
        starts: The positions, int64.
        length: Uniforms from each of them on.
    """
    calls = keys[..., 1:] + starts // 4
    at_calls = torch.stack((keys[..., :1].expand_as(calls), calls), dim=-1)
    words = uniforms(at_calls.unsqueeze(-2), (length + 3,))
    # A run starts at one of four words of its first call.
    places = starts.remainder(4).unsqueeze(-1) + torch.arange(length, device=keys.device)
    return words.gather(-1, places.expand(*words.shape[:-1], length))


def normals(keys: Tensor, count: int) -> Tensor:
    """The first normals of every stream, float32, ``(*batch, count)``, from keys ``(*batch, 2)``.

    Two words make two normals, in float64 with one rounding at the end: code in float32 would
    differ from one compiler to the next.
    """
    parts = [_normals_from(words) for words in _blocks(keys, count)]
    return torch.cat(parts, dim=-1)[..., :count]


def _uniforms_of(keys: Tensor, count: int) -> Tensor:
    parts = [philox.unit(words).flatten(-2) for words in _blocks(keys, count)]
    return torch.cat(parts, dim=-1)[..., :count]


def _normals_from(words: Tensor) -> Tensor:
    u = (words.to(torch.float64) + 0.5) * 2.0**-32
    radius = (-2.0 * u[..., 0::2].log()).sqrt()
    angle = 2.0 * math.pi * u[..., 1::2]
    pairs = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1)
    return pairs.to(torch.float32).flatten(-3)


def _blocks(keys: Tensor, count: int) -> Iterator[Tensor]:
    """The words for so many draws, int64 ``(*batch, calls, 4)`` a block; at least one block."""
    calls = -(-count // 4)
    seed, offset = keys[..., :1], keys[..., 1:]
    for start in range(0, max(calls, 1), BLOCK):
        stop = min(start + BLOCK, calls)
        index = torch.arange(start, stop, dtype=torch.int64, device=keys.device)
        yield torch.stack(philox.call(seed, offset, index), dim=-1)
