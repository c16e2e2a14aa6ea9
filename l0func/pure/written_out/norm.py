"""Batch normalisation in training mode for rows that a vmap keeps apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from l0func.internal.untyped import untyped


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
    """Normalise one row by the statistics of the whole mapped batch, and update the running ones
    in place.

    Source: Ioffe & Szegedy (2015), arXiv:1502.03167, Algorithm 1.

    Args:
        x: One row as a batch of one, shape ``(1, C, *space)``, mapped by ``vmap``.
        running_mean: Shape ``(C,)``, not mapped, or None.
        running_var: Shape ``(C,)``, not mapped, or None.
        weight: Shape ``(C,)``, mapped or not, or None.
        bias: Shape ``(C,)``, mapped or not, or None.
        momentum: Weight of this batch in the running statistics.
        eps: Added to the variance.
        row: Any tensor that is mapped by the same ``vmap``: what tells this batch from a batch of
            models.

    Returns:
        The shape of ``x``.

    Raises:
        ValueError: The whole batch has one value a channel.
    """
    mean, variance, count = _batch_statistics(x, row)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            _update(running_mean, mean, momentum)
            _update(running_var, variance * count / (count - 1), momentum)
    shape = (1, -1, *(1,) * (x.dim() - 2))
    y = (x - mean.reshape(shape)) * (variance.reshape(shape) + eps).rsqrt()
    y = y if weight is None else y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


def _update(running: Tensor, new: Tensor, momentum: float) -> None:
    try:
        running.copy_((1.0 - momentum) * running + momentum * new)
    except RuntimeError as error:
        raise ValueError(
            "Running statistics that one set of buffers holds would differ between the models "
            "that are mapped over. "
            "Stack the buffers as the params are, one set for each model, and map over both."
        ) from error


_ONE_ROW = (
    "BatchNorm in training mode mixes the rows of a batch, so a gradient of one row alone is not "
    "defined. "
    "Differentiate outside per_example, or put the BatchNorm in eval mode."
)


@untyped.compiler.allow_in_graph
def _batch_statistics(x: Tensor, row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # Traced into, the compiler would run the function's forward and pass its vmap rule by.
    statistics: Any = _BatchStatistics
    return statistics.apply(x, row)


class _BatchStatistics(Function):
    """Mean, variance and count of each channel over every row: the one place where rows meet."""

    @staticmethod
    def forward(*args: Any) -> Any:
        raise ValueError(_ONE_ROW)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        raise ValueError(_ONE_ROW)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing is kept: the statistics are differentiated where they are computed."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        x: Tensor = args[0].unsqueeze(0) if in_dims[0] is None else args[0].movedim(in_dims[0], 0)
        others = [d for d in range(x.dim()) if d != 2]
        repeats = info.batch_size if in_dims[0] is None else 1
        count = repeats * x.numel() // x.shape[2]
        if count < 2:
            raise ValueError(
                f"BatchNorm in training mode needs more than one value a channel; the whole batch "
                f"is {tuple(x.shape)}."
            )
        variance, mean = torch.var_mean(x, dim=others, correction=0)
        return (mean, variance, torch.full((), float(count), dtype=x.dtype, device=x.device)), (
            None,
            None,
            None,
        )
