"""Mean and variance of a weight times its gate, for local reparameterisation.

One kernel computes both and another their gradients. Of the weight's size, only the locations and
the weight itself are stored for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from l0func.distributions.base import GateDistribution
from l0func.distributions.elementwise import widened
from l0func.distributions.smooth import mapped_in_front, with_zeros
from l0func.internal.context import compiling
from l0func.internal.forward_mode import forward_rule
from l0func.internal.shapes import joint_shape
from l0func.internal.untyped import untyped
from l0func.kernels.backends import kernels_for


def masked_moments(
    distribution: GateDistribution, log_alpha: Tensor, w: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Mean and variance of every weight times its gate.

    .. math:: E[wz] = w\, E[z], \quad \mathrm{Var}[wz] = w^2\, \mathrm{Var}[z]

    Args:
        distribution: The gates' distribution.
        log_alpha: Gate locations, in a shape that broadcasts with ``w``.
        w: Weights, in float32 at least.

    Returns:
        Means and variances, in the weights' dtype.
    """
    la = widened(log_alpha)
    has_kernel = getattr(distribution, "formula", None) is not None
    if compiling() or not has_kernel or la.dtype != w.dtype:
        # A compiler fuses the recorded operations, slopes included.
        return _recorded_moments(distribution, la, w)
    return _fused(_MOMENTS, distribution, la, w)


def _recorded_moments(
    distribution: GateDistribution, log_alpha: Tensor, w: Tensor
) -> tuple[Tensor, Tensor]:
    """The moments, in operations that torch can differentiate any number of times."""
    mean, variance = distribution.mean_and_variance(log_alpha)
    return w * mean.to(w.dtype), w * w * variance.to(w.dtype)


def _recorded_grads(
    distribution: GateDistribution, log_alpha: Tensor, w: Tensor, *moment_grads: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients in locations and weights, in such operations."""
    recorded = partial(_recorded_moments, distribution)
    la, weights, *grads = untyped.broadcast_tensors(log_alpha, w, *moment_grads)
    pulled: Any = torch.func.vjp(recorded, la, weights)
    return pulled[1](tuple(grads))


class _Operation(NamedTuple):
    """A function of tensors that broadcast, entry by entry, with two results."""

    kernel: str
    """The kernel's name in each backend."""
    pulled: Callable[..., Sequence[Tensor]]
    """The tensors' gradients: ``(distribution, tensors, gradients in the results)``."""


def _fused(
    operation: _Operation, distribution: GateDistribution, *tensors: Tensor
) -> tuple[Tensor, Tensor]:
    function: Any = _Fused
    return function.apply(operation, distribution, *tensors)


class _Fused(Function):
    """An operation by its kernel, for every transform of torch."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, Tensor]:
        operation, distribution, *tensors = args
        shape = joint_shape(*[t.shape for t in tensors])
        flat = [t.expand(shape).reshape(-1) for t in tensors]
        in_double = flat[0].dtype == torch.float64
        nodes = distribution.nodes[0 if in_double else 1]
        run = getattr(kernels_for(*flat), operation.kernel)
        first, second = run(distribution.formula, nodes, *flat)
        return first.reshape(shape), second.reshape(shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.operation, ctx.distribution, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        tensors = ctx.saved_tensors
        shape = joint_shape(*[t.shape for t in tensors])
        results = [tensors[0].expand(shape)] * 2
        pulled = ctx.operation.pulled(ctx.distribution, tensors, with_zeros(grads, results))
        pairs = zip(pulled, tensors, strict=True)
        return None, None, *[grad.sum_to_size(t.shape) for grad, t in pairs]

    @forward_rule
    def jvp(ctx: Any, saved: Sequence[Tensor], *tangents: Tensor | None) -> tuple[Tensor, ...]:
        # No torch.func.jvp, which fails inside of dual_level. Each result depends on one entry of
        # every tensor, so its gradients are its slopes.
        tensors = untyped.broadcast_tensors(*saved)
        moved = with_zeros(tangents[2:], tensors)
        zero, one = torch.zeros_like(tensors[0]), torch.ones_like(tensors[0])
        results: list[Tensor] = []
        for grads in ((one, zero), (zero, one)):
            slopes = ctx.operation.pulled(ctx.distribution, tensors, grads)
            terms = [slope * change for slope, change in zip(slopes, moved, strict=True)]
            results.append(torch.stack(terms).sum(0))
        return tuple(results)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        operation, distribution, *tensors = args
        dims = in_dims[2:]
        ranks = [t.dim() - (d is not None) for t, d in zip(tensors, dims, strict=True)]
        pairs = zip(tensors, dims, strict=True)
        aligned = [mapped_in_front(t, d, max(ranks)) for t, d in pairs]
        return _fused(operation, distribution, *aligned), (0, 0)


def _pulled_moments(
    distribution: GateDistribution, tensors: Sequence[Tensor], grads: Sequence[Tensor]
) -> Sequence[Tensor]:
    return _fused(_GRADS, distribution, *tensors, *grads)


def _pulled_grads(
    distribution: GateDistribution, tensors: Sequence[Tensor], grads: Sequence[Tensor]
) -> Sequence[Tensor]:
    pulled: Any = torch.func.vjp(partial(_recorded_grads, distribution), *tensors)
    return pulled[1](tuple(grads))


_MOMENTS = _Operation("masked_moments", _pulled_moments)
_GRADS = _Operation("masked_moment_grads", _pulled_grads)
