"""The first two moments of gated weights, from a weight and its gates' moments.

Recorded one by one, the products would keep three tensors as large as the weight for the backward
pass, and make seven more there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from l0func.internal.context import compiling
from l0func.internal.forward_mode import forward_rule
from l0func.internal.untyped import untyped


def weight_moments(weight: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`w\,E[z]` and :math:`w^2\,\mathrm{Var}[z]`, entry by entry.

    Args:
        weight: The weight w, shape ``(*weight,)``.
        mean: Its gates' means, the same shape.
        variance: Their variances, the same shape.

    Returns:
        Two tensors of the same shape.
    """
    if compiling():
        # A compiler fuses the recorded operations.
        return weight * mean, weight * weight * variance
    autograd: Any = _WeightMoments
    return autograd.apply(weight, mean, variance)


class _WeightMoments(Function):
    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, Tensor]:
        weight, mean, variance = args
        return weight * mean, weight * weight * variance

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, ...]:
        weight, mean, variance = ctx.saved_tensors
        of_first, of_second = grads
        scaled = of_second * weight
        of_weight = torch.addcmul(of_first * mean, scaled, variance, value=2)
        found = (of_weight, of_first * weight, scaled * weight)
        # A map may give more dimensions to one of the three than to the others.
        pairs = zip(found, ctx.saved_tensors, strict=True)
        return tuple([grad.sum_to_size(x.shape) for grad, x in pairs])

    @forward_rule
    def jvp(ctx: Any, saved: Sequence[Tensor], *tangents: Tensor | None) -> tuple[Tensor, ...]:
        weight, mean, variance = saved
        pairs = zip(tangents, saved, strict=True)
        of_weight, of_mean, of_variance = [
            torch.zeros_like(x) if tangent is None else tangent for tangent, x in pairs
        ]
        first = of_weight * mean + weight * of_mean
        second = 2 * weight * of_weight * variance + weight * weight * of_variance
        return first, second

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        pairs = zip(args, in_dims, strict=True)
        weight, mean, variance = [x if dim is None else x.movedim(dim, 0) for x, dim in pairs]
        # Without a mapped variance or mean one result would lack the rows.
        first, second = weight_moments(weight, *untyped.broadcast_tensors(mean, variance))
        return untyped.broadcast_tensors(first, second), (0, 0)
