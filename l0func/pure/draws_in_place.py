"""torch's in-place draws, such as ``x.bernoulli_(p)``, written from a caller's uniform draws.

Stochastic depth in timm and torchvision draws in this way.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from l0func import random
from l0func.pure.integers import integers_below, largest_of


def bernoulli_values(key: Tensor, like: Tensor, p: float | Tensor = 0.5) -> Tensor:
    """Ones with probability ``p``; 0 and 1 are exact.

    Args:
        key: A key, shape ``(2,)``.
        like: The tensor that the draws are for.
        p: The probability, a number or a tensor that broadcasts to ``like``.
    """
    if not isinstance(p, Tensor):
        _check(0.0 <= p <= 1.0, "bernoulli_", f"a probability between 0 and 1; got {p}")
    return random.uniform(key, tuple(like.shape)).to(like.device) < p


def uniform_values(key: Tensor, like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Uniform draws between two limits.

    Args:
        key: A key, shape ``(2,)``.
        like: The tensor that the draws are for.
        low: The lower limit.
        high: The upper limit.
    """
    _check(low <= high, "uniform_", f"from <= to; got from={low} and to={high}")
    return low + (high - low) * unit_in_type(random.uniform(key, tuple(like.shape)), like.dtype)


def unit_in_type(draw: Tensor, dtype: torch.dtype) -> Tensor:
    """Uniforms on (0, 1) for a tensor of a shorter type, on [0, 1).

    Rounded to the nearest, one draw in some thousands would be 1.
    """
    if dtype not in _SHORT_TYPES:
        return draw
    steps = 1.0 / torch.finfo(dtype).eps
    return (draw * steps).floor() / steps


def normal_values(key: Tensor, like: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Normal draws; a complex draw has a variance of ``std**2`` in all.

    Args:
        key: A key, shape ``(2,)``.
        like: The tensor that the draws are for.
        mean: The mean.
        std: The standard deviation.
    """
    _check(std >= 0.0, "normal_", f"std >= 0; got {std}")
    return mean + std * standard_normal(key, tuple(like.shape), like.dtype)


def standard_normal(key: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Standard normal draws, real or complex as the dtype is."""
    if not dtype.is_complex:
        return random.normal(key, shape)
    pairs = random.normal(key, (*shape, 2)) * math.sqrt(0.5)
    return torch.view_as_complex(pairs)


def log_normal_values(key: Tensor, like: Tensor, mean: float = 1.0, std: float = 2.0) -> Tensor:
    """Draws whose logarithm is normal.

    Args:
        key: A key, shape ``(2,)``.
        like: The tensor that the draws are for.
        mean: The logarithm's mean.
        std: Its standard deviation.
    """
    _check(std > 0.0, "log_normal_", f"std > 0; got {std}")
    return (mean + std * random.normal(key, tuple(like.shape)).double()).exp()


def exponential_values(key: Tensor, like: Tensor, lambd: float = 1.0) -> Tensor:
    """Exponential draws with rate ``lambd``, by inversion."""
    _check(lambd > 0.0, "exponential_", f"lambd > 0; got {lambd}")
    return -random.uniform(key, tuple(like.shape)).double().log() / lambd


def cauchy_values(key: Tensor, like: Tensor, median: float = 0.0, sigma: float = 1.0) -> Tensor:
    """Cauchy draws, by inversion."""
    _check(sigma > 0.0, "cauchy_", f"sigma > 0; got {sigma}")
    u = random.uniform(key, tuple(like.shape)).double()
    return median + sigma * (math.pi * (u - 0.5)).tan()


def geometric_values(key: Tensor, like: Tensor, p: float) -> Tensor:
    """The number of trials up to the first success, by inversion; at least 1."""
    _check(0.0 < p < 1.0, "geometric_", f"a probability between 0 and 1, exclusive; got {p}")
    u = random.uniform(key, tuple(like.shape)).double()
    return (u.log() / math.log1p(-p)).ceil()


def integers_values(key: Tensor, like: Tensor, low: int = 0, high: int | None = None) -> Tensor:
    """Integers between two limits.

    Args:
        key: A key, shape ``(2,)``.
        like: The tensor that the draws are for.
        low: The smallest integer.
        high: The end, exclusive. None: the largest integer that the tensor's type holds with all
            below it, inclusive.
    """
    end = largest_of(like.dtype) + 1 if high is None else high
    _check(low < end, "random_", f"from < to; got from={low} and to={end}")
    return low + integers_below(end - low, key, tuple(like.shape))


_SHORT_TYPES = (torch.float16, torch.bfloat16)


def _check(fits: bool, name: str, rule: str) -> None:
    if not fits:
        raise ValueError(f"torch function {name!r} takes {rule}.")
