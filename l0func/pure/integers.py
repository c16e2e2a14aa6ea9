"""Random integers and permutations from a key."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from l0func import random

_LARGEST = 2**63 - 1


def integers_below(count: int, key: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Integers from 0 to ``count - 1``, each equally likely up to ``count / 2**63``.

    Args:
        count: At least 1.
        key: A key, shape ``(2,)``.
        shape: The shape of the draw.

    Returns:
        int64, shaped ``shape``.

    Raises:
        ValueError: ``count`` is above ``2**63``.
    """
    if count > _LARGEST + 1:
        raise ValueError(f"A range of random integers has up to 2**63 numbers; got {count}.")
    word = random_words(key, math.prod(shape)).reshape(shape)
    positive = word & _LARGEST
    return positive if count > _LARGEST else positive % count


def permutation(count: int, key: Tensor) -> Tensor:
    """A permutation of the integers from 0 to ``count - 1``, each equally likely."""
    return random_words(key, count).argsort()


def random_words(key: Tensor, count: int) -> Tensor:
    """``count`` random 64-bit words, int64."""
    numbers = torch.arange(count, dtype=torch.int64, device=key.device)
    return random.fold_in(key, numbers)[..., 0]


def largest_of(dtype: torch.dtype) -> int:
    """The largest integer in a type's unbroken run of integers from 0."""
    if dtype == torch.bool:
        return 1
    if not dtype.is_floating_point:
        return torch.iinfo(dtype).max
    return round(2.0 / torch.finfo(dtype).eps)
