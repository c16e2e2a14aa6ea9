"""Uniforms for a part of a tensor: the slice of a key's stream that belongs to its entries."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from l0func.internal.sharding import Owned, as_index
from l0func.kernels.by_torch_streams import uniform_runs
from l0func.kernels.draws import draw_uniforms


def first_of_run(own: Sequence[Owned], shape: Sequence[int], /) -> int | None:
    """The position of the first entry, if the entries of a part follow one another; else None.

    Args:
        own: For each dimension the indices of the part, ascending.
        shape: The shape of the whole.
    """
    position, is_cut = 0, False
    for indices, size in zip(own, shape, strict=True):
        if not isinstance(indices, range) or (is_cut and len(indices) < size):
            return None
        position = position * size + indices.start
        is_cut = is_cut or len(indices) > 1
    return position


def owned_uniforms(keys: Tensor, own: Sequence[Owned], shape: Sequence[int], /) -> Tensor:
    """The uniforms that a whole draw gives to some of its entries, bit for bit.

    Args:
        keys: Keys, shape ``(*batch, 2)``.
        own: For each dimension the indices of the part.
        shape: The shape of the whole draw.

    Returns:
        float32, shape ``(*batch, *part)``.
    """
    sizes = [*keys.shape[:-1], *[len(indices) for indices in own]]
    if prod(sizes) == 0:
        return torch.zeros(sizes, device=keys.device)
    first = first_of_run(own, shape)
    if first is not None:
        start = torch.tensor([first], device=keys.device)
        return _runs(keys, start, prod([len(indices) for indices in own])).reshape(sizes)
    lines = _entry_numbers(own[:-1], shape[:-1]).to(keys.device) * shape[-1]
    last = own[-1]
    if isinstance(last, range):
        return _runs(keys, lines + last.start, len(last)).reshape(sizes)
    places = lines.unsqueeze(-1) + as_index(last).to(keys.device)
    return _runs(keys, places.flatten(), 1).reshape(sizes)


def _entry_numbers(own: Sequence[Owned], shape: Sequence[int]) -> Tensor:
    """The numbers of all entries of a part, in row-major order of the whole."""
    numbers = torch.zeros(1, dtype=torch.int64, device="cpu")
    for indices, size in zip(own, shape, strict=True):
        numbers = (numbers.unsqueeze(-1) * size + as_index(indices)).reshape(-1)
    return numbers


def _runs(keys: Tensor, starts: Tensor, length: int) -> Tensor:
    return uniform_runs(_words_of, keys, starts, length)


def _words_of(keys: Tensor, counts: Sequence[int]) -> Tensor:
    return draw_uniforms(keys, tuple(counts))[0]
