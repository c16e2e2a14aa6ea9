"""Functions of gate locations whose slopes are written down rather than recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from l0func.internal.forward_mode import forward_rule

Derivatives = Callable[..., tuple[Tensor, ...]]
"""``(order, log_alpha, *others)`` to one function, or several, derived so often, and then to the
same once more.

With ``recorded=True`` in operations that torch can differentiate.
"""


def smooth(
    derivatives: Derivatives, order: int, log_alpha: Tensor, *others: Tensor
) -> tuple[Tensor, ...]:
    """``derivatives(order, log_alpha, *others)`` with its second half as the slope of the first in
    the locations.

    The same numbers as recording every operation, for a fraction of the time and memory; it can be
    differentiated and mapped as often as one likes. Slopes in ``others`` are those of the
    operations that ``derivatives`` is written in.
    """
    function: Any = _Smooth
    return function.apply(derivatives, order, log_alpha, *others)


class _Smooth(Function):
    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        derivatives, order, *tensors = args
        return derivatives(order, *tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.derivatives, ctx.order, *tensors = inputs
        ctx.count = len(tensors)
        saved = (*tensors, *output[len(output) // 2 :])
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor | None) -> Any:
        log_alpha, *others = ctx.saved_tensors[: ctx.count]
        grads: list[Any] = [None] * ctx.count
        half = len(slopes) // 2
        if ctx.needs_input_grad[2] and any(slope is not None for slope in slopes):
            steeper = ctx.saved_tensors[ctx.count :]
            if any(slope is not None for slope in slopes[half:]):
                steeper = smooth(ctx.derivatives, ctx.order + 1, log_alpha, *others)
            terms = [
                slope * d for slope, d in zip(slopes, steeper, strict=False) if slope is not None
            ]
            grads[0] = sum(terms[1:], terms[0]).sum_to_size(log_alpha.shape)
        if any(ctx.needs_input_grad[3:]):
            recorded: Any = torch.func.vjp(_of_others(ctx, log_alpha), *others)
            values, pull = recorded
            grads[1:] = pull(
                tuple(
                    torch.zeros_like(v) if s is None else s
                    for v, s in zip(values, slopes, strict=True)
                )
            )
        return None, None, *grads

    @forward_rule
    def jvp(ctx: Any, saved: Sequence[Tensor], *tangents: Tensor | None) -> tuple[Tensor, ...]:
        log_alpha, *others = saved[: ctx.count]
        moved = tangents[2]
        steeper = smooth(ctx.derivatives, ctx.order + 1, log_alpha, *others)
        parts = [torch.zeros_like(d) if moved is None else d * moved for d in steeper]
        if any(t is not None for t in tangents[3:]):
            given = tuple(
                torch.zeros_like(o) if t is None else t
                for o, t in zip(others, tangents[3:], strict=True)
            )
            push = torch.func.jvp(_of_others(ctx, log_alpha), tuple(others), given)[1]
            parts = [p + q for p, q in zip(parts, push, strict=True)]
        return tuple(parts)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        derivatives, order, *tensors = args
        dims = in_dims[2:]
        rank = max(t.dim() - (d is not None) for t, d in zip(tensors, dims, strict=True))
        # Entry by entry: rows in front, and as many dimensions behind them for all.
        aligned = [
            t if d is None else _ranked(t.movedim(d, 0), rank)
            for t, d in zip(tensors, dims, strict=True)
        ]
        results = smooth(derivatives, order, *aligned)
        return results, (0,) * len(results)


def _of_others(ctx: Any, log_alpha: Tensor) -> Callable[..., tuple[Tensor, ...]]:
    return lambda *others: ctx.derivatives(ctx.order, log_alpha, *others, recorded=True)


def _ranked(t: Tensor, rank: int) -> Tensor:
    return t.reshape(t.shape[0], *(1,) * (rank - t.dim() + 1), *t.shape[1:])
