"""torch's random functions, drawn from a caller's uniforms instead of the global generator.

``Keyed`` calls them with uniforms from its key.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional as F

Uniform = Callable[[tuple[int, ...]], Tensor]
"""A shape to float32 uniforms on (0, 1) in that shape; every call draws anew."""

Dropout = Callable[[Tensor, float], Tensor]
"""``(x, p)`` to ``x`` after dropout, for written-out functions; they call it only with p > 0."""

# SELU's constants. Alpha dropout sets a dropped unit to the lower limit of SELU.
_SELU_ALPHA = 1.6732632423543772
_SELU_SCALE = 1.0507009873554805


def dropout(x: Tensor, p: float, shape: tuple[int, ...], uniform: Uniform) -> Tensor:
    """Zero each entry with probability ``p``, and scale the others by 1/(1 - p).

    Source: Srivastava et al. (2014), "Dropout: a simple way to prevent neural networks from
        overfitting".

    Args:
        x: Any shape.
        p: Probability that an entry is zeroed, in [0, 1].
        shape: The mask's shape, broadcastable to ``x``.
        uniform: It draws the uniforms.

    Returns:
        A tensor shaped and typed as ``x``.
    """
    keep = (uniform(shape) >= p).to(device=x.device, dtype=x.dtype)
    scale = 0.0 if p == 1.0 else 1.0 / (1.0 - p)
    return x * (keep * scale)


def alpha_dropout(x: Tensor, p: float, shape: tuple[int, ...], uniform: Uniform) -> Tensor:
    """Set entries to SELU's lower limit with probability ``p``, and rescale all.

    Inputs with mean 0 and variance 1 keep them. With p = 1 the result is 0.

    Source: Klambauer et al. (2017), "Self-normalizing neural networks", arXiv:1706.02515.

    Args:
        x: Any shape.
        p: Probability that an entry is dropped, in [0, 1].
        shape: The mask's shape, broadcastable to ``x``.
        uniform: It draws the uniforms.

    Returns:
        A tensor shaped and typed as ``x``.
    """
    keep = uniform(shape).to(x.device) >= p
    if p == 1.0:
        return x * 0.0
    limit = -_SELU_ALPHA * _SELU_SCALE
    variance = (1.0 - p) * (1.0 + p * limit**2)
    scale = 1.0 / sqrt(variance)
    return (torch.where(keep, x, limit) - p * limit) * scale


def rrelu(x: Tensor, lower: float, upper: float, uniform: Uniform) -> Tensor:
    """Leaky ReLU with a negative slope drawn from U(lower, upper) for every entry.

    Source: Xu et al. (2015), "Empirical evaluation of rectified activations in convolutional
        network".

    Args:
        x: Any shape.
        lower: Smallest slope.
        upper: Largest slope.
        uniform: It draws the uniforms.

    Returns:
        A tensor shaped and typed as ``x``.
    """
    u = uniform(tuple(x.shape)).to(device=x.device, dtype=x.dtype)
    slope = lower + (upper - lower) * u
    return torch.where(x >= 0, x, x * slope)


def gumbel_softmax(logits: Tensor, tau: float, hard: bool, dim: int, uniform: Uniform) -> Tensor:
    """A relaxed categorical draw; with ``hard`` a one-hot draw with the relaxed one's gradient.

    Source: Jang, Gu & Poole (2017), "Categorical reparameterization with Gumbel-softmax",
        arXiv:1611.01144.

    Args:
        logits: Unnormalised log probabilities, any shape.
        tau: Temperature.
        hard: Whether the value is one-hot.
        dim: The dimension with the categories.
        uniform: It draws the uniforms.

    Returns:
        A tensor shaped as ``logits``; it sums to 1 along ``dim``.
    """
    u = uniform(tuple(logits.shape)).to(device=logits.device, dtype=logits.dtype)
    minus_gumbel = (-u.log()).log()
    soft = F.softmax((logits - minus_gumbel) / tau, dim)
    if not hard:
        return soft
    largest = F.one_hot(soft.argmax(dim), soft.shape[dim])
    one_hot = largest.to(soft.dtype).movedim(-1, dim)
    return one_hot - soft.detach() + soft
