"""Autograd for functions that compute their own derivative in the gate locations.

``quantile`` and ``mean_and_variance`` use it: torch then records one step, not every operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function

from l0func.internal.forward_mode import forward_rule, in_dual_level, pushed_forward
from l0func.internal.untyped import untyped

_FEW = 4096

_AS_OWN: Any = untyped.ops.aten._unsafe_view.default

SmoothFunction = Callable[..., tuple[Tensor, ...]]
"""``(order, log_alpha, *others)`` to values, and then their slopes.

Each value is the ``order``-th derivative of one function in the locations, and its slope is the
next derivative. With ``recorded=True`` torch can differentiate the operations themselves.
"""


def smooth(
    function: SmoothFunction, order: int, log_alpha: Tensor, *others: Tensor
) -> tuple[Tensor, ...]:
    """``function(order, log_alpha, *others)``, differentiated by the slopes that it returns.

    The values equal those from recorded operations, in less time and memory. The result can be
    differentiated and mapped any number of times. For ``others`` torch differentiates the
    operations in ``function``.
    """
    autograd: Any = _Smooth
    return autograd.apply(function, order, log_alpha, *others)


class _Smooth(Function):
    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        function, order, *tensors = args
        results = function(order, *tensors)
        if in_dual_level():
            # torch gives tangents to no two views of one tensor there.
            return tuple([result.clone() for result in results])
        return tuple([_owned(result) for result in results])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.function, ctx.order, *tensors = inputs
        ctx.count = len(tensors)
        slopes = output[len(output) // 2 :]
        ctx.save_for_backward(*tensors, *slopes)
        ctx.save_for_forward(*tensors, *slopes)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        location_grad, other_grads = None, [None] * (ctx.count - 1)
        if ctx.needs_input_grad[2] and any(grad is not None for grad in grads):
            location_grad = _location_grad(ctx, grads)
        if any(ctx.needs_input_grad[3:]):
            other_grads = _other_grads(ctx, grads)
        return None, None, location_grad, *other_grads

    @forward_rule
    def jvp(ctx: Any, saved: Sequence[Tensor], *tangents: Tensor | None) -> tuple[Tensor, ...]:
        log_alpha, *others = saved[: ctx.count]
        moved, moved_others = tangents[2], tangents[3:]
        slopes = smooth(ctx.function, ctx.order + 1, log_alpha, *others)
        results = [torch.zeros_like(d) if moved is None else d * moved for d in slopes]
        if any(tangent is not None for tangent in moved_others):
            given = with_zeros(moved_others, others)
            recorded = _function_of_others(ctx, log_alpha)
            pushed = pushed_forward(recorded, tuple(others), given)
            results = [result + push for result, push in zip(results, pushed, strict=True)]
        return tuple(results)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        function, order, *tensors = args
        dims = in_dims[2:]
        ranks = [t.dim() - (d is not None) for t, d in zip(tensors, dims, strict=True)]
        # The function works entry by entry, so the tensors must broadcast: each gets its mapped
        # dimension in front, and equally many dimensions behind it.
        aligned = [mapped_in_front(t, d, max(ranks)) for t, d in zip(tensors, dims, strict=True)]
        results = smooth(function, order, *aligned)
        return results, (0,) * len(results)


def _location_grad(ctx: Any, grads: Sequence[Tensor | None]) -> Tensor:
    log_alpha, *others = ctx.saved_tensors[: ctx.count]
    slopes = ctx.saved_tensors[ctx.count :]
    if any(grad is not None for grad in grads[len(grads) // 2 :]):
        # The slopes were asked for as results, so their own slopes are needed too.
        slopes = smooth(ctx.function, ctx.order + 1, log_alpha, *others)
    pairs = zip(grads, slopes, strict=False)
    terms = [grad * slope for grad, slope in pairs if grad is not None]
    total = sum(terms[1:], terms[0])
    return total.sum_to_size(log_alpha.shape)


def _other_grads(ctx: Any, grads: Sequence[Tensor | None]) -> Sequence[Any]:
    log_alpha, *others = ctx.saved_tensors[: ctx.count]
    recorded: Any = torch.func.vjp(_function_of_others(ctx, log_alpha), *others)
    values, pull = recorded
    return pull(with_zeros(grads, values))


def _function_of_others(ctx: Any, log_alpha: Tensor) -> Callable[..., tuple[Tensor, ...]]:
    """The function of the other tensors alone, in operations that torch differentiates."""
    return lambda *others: ctx.function(ctx.order, log_alpha, *others, recorded=True)


def _owned(result: Any) -> Tensor:
    """A result as no view of another tensor: torch lets a caller change only such in place."""
    if not result._is_view():
        return result
    # To copy a few numbers takes less time than to call an operator of this kind.
    return result.clone() if result.numel() < _FEW else _AS_OWN(result, result.shape)


def with_zeros(tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The tensors, with zeros like ``like`` for each None."""
    filled = list(tensors)
    for i, model in enumerate(like):
        if filled[i] is None:
            filled[i] = torch.zeros_like(model)
    return cast("tuple[Tensor, ...]", tuple(filled))


def mapped_in_front(t: Tensor, dim: int | None, rank: int) -> Tensor:
    """The tensor with its mapped dimension, if any, in front of ``rank`` others."""
    if dim is None:
        return t
    t = t.movedim(dim, 0)
    missing = (1,) * (rank - t.dim() + 1)
    return t.reshape(t.shape[0], *missing, *t.shape[1:])
