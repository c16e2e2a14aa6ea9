"""Batch normalisation in training mode, for rows that vmap shows one at a time.

Its statistics need the whole batch: a vmap rule computes them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from l0func.internal.compiler_import import graph_node


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
    row: Tensor,
) -> Tensor:
    """Normalise one row by the whole mapped batch's statistics; update the running ones in place.

    Source: Ioffe & Szegedy (2015), arXiv:1502.03167, Algorithm 1.

    Args:
        x: One row as a batch of one, shape ``(1, C, *space)``, mapped by ``vmap``.
        running_mean: Shape ``(C,)``, not mapped, or None.
        running_var: Shape ``(C,)``, not mapped, or None.
        weight: Shape ``(C,)``, mapped or not, or None.
        bias: Shape ``(C,)``, mapped or not, or None.
        momentum: This batch's weight in the running statistics.
        eps: Added to the variance.
        row: Any tensor that is mapped over the rows, such as the row's key. It marks the vmap over
            rows where another vmap maps models.

    Returns:
        A tensor shaped as ``x``.

    Raises:
        ValueError: The whole batch has one value a channel, only one row is differentiated, or
            several mapped models share one set of running statistics.
    """
    short, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))
    mean, variance, count = _batch_statistics(x, row)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            _update(running_mean, mean, momentum)
            _update(running_var, variance * count / (count - 1), momentum)
    space = (1,) * (x.dim() - 2)
    shape = (1, -1, *space)
    centred = x - mean.reshape(shape)
    y = centred * (variance.reshape(shape) + eps).rsqrt()
    if weight is not None:
        y = y * weight.reshape(shape)
    if bias is not None:
        y = y + bias.reshape(shape)
    return y.to(short)


def _update(running: Tensor, new: Tensor, momentum: float) -> None:
    try:
        running.copy_((1.0 - momentum) * running + momentum * new)
    except RuntimeError as error:
        raise ValueError(
            "Several models are mapped over, and one set of buffers cannot hold the running "
            "statistics that would differ between them. Stack the buffers as the params are, one "
            "set for each model, and map over both."
        ) from error


_ONE_ROW = (
    "BatchNorm in training mode mixes the rows of a batch, so a gradient of one row alone is not "
    "defined. Differentiate outside per_example, or put the BatchNorm in eval mode."
)


@graph_node
def _batch_statistics(x: Tensor, row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # allow_in_graph: a compiler that traced into the function would run its forward, and never
    # its vmap rule.
    statistics: Any = _BatchStatistics
    return statistics.apply(x, row)


class _BatchStatistics(Function):
    """Mean, variance and count over every row, for each channel: the one place where rows meet.

    Its vmap rule does the work, because the whole batch is visible only there.
    """

    @staticmethod
    def forward(*args: Any) -> Any:
        raise ValueError(_ONE_ROW)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise ValueError(_ONE_ROW)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing is kept: the statistics are differentiated where they are computed."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        given: Tensor = args[0]
        if in_dims[0] is None:
            # All rows are the same tensor.
            x, repeats = given.unsqueeze(0), info.batch_size
        else:
            x, repeats = given.movedim(in_dims[0], 0), 1
        count = repeats * x.numel() // x.shape[2]
        if count < 2:
            raise ValueError(
                "BatchNorm in training mode needs more than one value a channel; the whole batch "
                f"is {tuple(x.shape)}."
            )
        others = [d for d in range(x.dim()) if d != 2]
        variance, mean = torch.var_mean(x, dim=others, correction=0)
        count = torch.full((), float(count), dtype=x.dtype, device=x.device)
        return (mean, variance, count), (None, None, None)
