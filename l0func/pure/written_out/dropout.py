"""torch's random functions, drawn from a caller's uniforms instead of the global generator."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional as F

Uniform = Callable[[tuple[int, ...]], Tensor]
"""A shape to uniforms on (0, 1) of that shape, float32; a new draw at every call."""

# SELU's constants: alpha dropout replaces a unit by the value that SELU saturates at.
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def dropout(x: Tensor, p: float, shape: tuple[int, ...], uniform: Uniform) -> Tensor:
    """``x`` with a share ``p`` of it zeroed and the rest scaled by 1/(1 - p).

    Source: Srivastava et al. (2014), "Dropout: a simple way to prevent neural networks from
        overfitting".

    Args:
        x: Any shape.
        p: Probability of zeroing, in [0, 1].
        shape: Shape of the mask, broadcastable to that of ``x``.
        uniform: Where the draws come from.

    Returns:
        The shape and dtype of ``x``.
    """
    keep = (uniform(shape) >= p).to(device=x.device, dtype=x.dtype)
    return x * (keep * (0.0 if p == 1.0 else 1.0 / (1.0 - p)))


def alpha_dropout(x: Tensor, p: float, shape: tuple[int, ...], uniform: Uniform) -> Tensor:
    """``x`` with a share ``p`` of it set to SELU's lower limit, rescaled to keep mean 0 and
    variance 1.

    Source: Klambauer et al. (2017), "Self-normalizing neural networks", arXiv:1706.02515.

    Args:
        x: Any shape.
        p: Probability of dropping, in [0, 1].
        shape: Shape of the mask, broadcastable to that of ``x``.
        uniform: Where the draws come from.

    Returns:
        The shape and dtype of ``x``.
    """
    keep = uniform(shape).to(x.device) >= p
    if p == 1.0:
        return x * 0.0
    limit = -_SELU_ALPHA * _SELU_SCALE
    scale = 1.0 / sqrt((1.0 - p) * (1.0 + p * limit**2))
    return (torch.where(keep, x, limit) - p * limit) * scale


def rrelu(x: Tensor, lower: float, upper: float, uniform: Uniform) -> Tensor:
    """Leaky ReLU whose negative slope is drawn from U(lower, upper) for every entry.

    Source: Xu et al. (2015), "Empirical evaluation of rectified activations in convolutional
        network".

    Args:
        x: Any shape.
        lower: Smallest slope.
        upper: Largest slope.
        uniform: Where the draws come from.

    Returns:
        The shape and dtype of ``x``.
    """
    slope = lower + (upper - lower) * uniform(tuple(x.shape)).to(device=x.device, dtype=x.dtype)
    return torch.where(x >= 0, x, x * slope)


def gumbel_softmax(logits: Tensor, tau: float, hard: bool, dim: int, uniform: Uniform) -> Tensor:
    """A relaxed, or with ``hard`` a straight-through, categorical draw.

    Source: Jang, Gu & Poole (2017), "Categorical reparameterization with Gumbel-softmax",
        arXiv:1611.01144.

    Args:
        logits: Unnormalised log probabilities, any shape.
        tau: Temperature.
        hard: Whether the value is one-hot.
        dim: The dimension of the categories.
        uniform: Where the draws come from.

    Returns:
        The shape of ``logits``; sums to 1 along ``dim``.
    """
    u = uniform(tuple(logits.shape)).to(device=logits.device, dtype=logits.dtype)
    soft = F.softmax((logits - (-u.log()).log()) / tau, dim)
    if not hard:
        return soft
    one_hot = F.one_hot(soft.argmax(dim), soft.shape[dim]).to(soft.dtype).movedim(-1, dim)
    return one_hot - soft.detach() + soft
