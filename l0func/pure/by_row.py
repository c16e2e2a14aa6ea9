"""The torch functions that know about rows, for a module that vmap shows one row at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from l0func.internal.interception import Interception
from l0func.internal.untyped import untyped
from l0func.pure.written_out import attention, embedding, linear, norm, recurrent


class ByRow(Interception):
    """A context for one row of a vmapped batch.

    BatchNorm in training mode sees the whole batch; attention and recurrent layers, whose fused
    forms vmap, jvp or double backward cannot follow, run written out.

    Args:
        row: A tensor mapped over the rows, such as the row's key.
        chunked: Whether vmap sees the batch in chunks, so that no statistics of the whole batch
            exist.
    """

    def __init__(self, row: Tensor, chunked: bool) -> None:
        super().__init__(ROW_HANDLERS)
        self.row = row
        self.chunked = chunked


class WrittenOut(Interception):
    """A context in which attention and recurrent layers run as the products that they are, for a
    count or a trace of them.
    """

    def __init__(self) -> None:
        super().__init__(WRITTEN_OUT)


def _norm_over_rows(
    mode: ByRow,
    func: Any,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return func(input, running_mean, running_var, weight, bias, training, momentum, eps)
    if mode.chunked:
        raise ValueError(
            "BatchNorm in training mode normalises by the whole batch, and chunk_size splits it: "
            "the statistics would be "
            "those of a chunk. Leave chunk_size out, or put the BatchNorm in eval mode."
        )
    return norm.batch_norm(input, running_mean, running_var, weight, bias, momentum, eps, mode.row)


def _instance_norm(
    mode: ByRow,
    func: Any,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if use_input_stats and running_mean is not None:
        raise ValueError(
            "InstanceNorm with track_running_stats in training mode averages its statistics over "
            "the batch, which "
            "per_example has no rule for. Build it with track_running_stats=False, or put it in "
            "eval mode."
        )
    return func(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


def _without_dropout(x: Tensor, p: float) -> Tensor:
    raise AssertionError("A dropout that a key did not answer: Keyed stands inside ByRow.")


def _fused_attention(written_out: Callable[..., Any]) -> Callable[..., Any]:
    def rule(mode: ByRow, func: Any, *args: Any, **named: Any) -> Any:
        return written_out(*args, **named, dropout=_without_dropout)

    return rule


def _multi_head_attention(mode: ByRow, func: Any, *args: Any, **named: Any) -> Any:
    # Dropout that is active was answered by the key; what comes here has none.
    args, named = args[:13], {**named, "training": False}
    return attention.multi_head_attention_forward(*args, **named, dropout=_without_dropout)


def _packed(mode: ByRow, func: Any, *args: Any) -> Any:
    raise ValueError(
        "A packed sequence holds many rows of different lengths, and per_example gives the module "
        "one row at a time. Pass the "
        "padded sequences, and mask the outputs."
    )


def _recurrent(written_out: Callable[..., Any]) -> Callable[..., Any]:
    def rule(mode: ByRow, func: Any, *args: Any) -> Any:
        if recurrent.is_packed(args):
            return _packed(mode, func, *args)
        return written_out(*args, dropout=_without_dropout)

    return rule


def _embedding_bag(
    rows: ByRow,
    func: Any,
    /,
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    if input.dim() != 2 or scale_grad_by_freq or sparse:
        raise ValueError(
            "An EmbeddingBag over rows takes bags of one size, shape (B, bag), without offsets, "
            "sparse gradients or gradients "
            f"scaled by frequency; got indices of shape {tuple(input.shape)} in a row."
        )
    return embedding.embedding_bag(input, weight, mode, per_sample_weights, padding_idx)


def _without_mode(written_out: Callable[..., Any]) -> Callable[..., Any]:
    def rule(mode: ByRow, func: Any, *args: Any, **named: Any) -> Any:
        return written_out(*args, **named)

    return rule


def _unless_packed(written_out: Callable[..., Any]) -> Callable[..., Any]:
    def rule(mode: Interception, func: Any, *args: Any) -> Any:
        return (
            func(*args)
            if recurrent.is_packed(args)
            else written_out(*args, dropout=_without_dropout)
        )

    return rule


def _flat_bags(mode: Interception, func: Any, /, *args: Any, **named: Any) -> Tensor:
    flat = args[0].dim() != 2
    return (
        func(*args, **named) if flat else _embedding_bag(cast("ByRow", mode), func, *args, **named)
    )


_RECURRENT: dict[Any, Callable[..., Any]] = {
    torch.lstm: recurrent.lstm,
    torch.gru: recurrent.gru,
    torch.rnn_tanh: recurrent.rnn_tanh,
    torch.rnn_relu: recurrent.rnn_relu,
}
_FUSED: dict[Any, Callable[..., Any]] = {
    F.scaled_dot_product_attention: _fused_attention(attention.scaled_dot_product_attention),
    F.multi_head_attention_forward: _multi_head_attention,
    torch.lstm_cell: _without_mode(recurrent.lstm_cell),
    torch.gru_cell: _without_mode(recurrent.gru_cell),
    torch.rnn_tanh_cell: _without_mode(recurrent.rnn_tanh_cell),
    torch.rnn_relu_cell: _without_mode(recurrent.rnn_relu_cell),
    F.bilinear: _without_mode(linear.bilinear),
    untyped._weight_norm: _without_mode(linear.weight_norm),
}
ROW_HANDLERS: dict[Any, Callable[..., Any]] = {
    **_FUSED,
    **{func: _recurrent(written_out) for func, written_out in _RECURRENT.items()},
    F.batch_norm: _norm_over_rows,
    F.instance_norm: _instance_norm,
    F.embedding_bag: _embedding_bag,
    untyped._pack_padded_sequence: _packed,
}
WRITTEN_OUT: dict[Any, Callable[..., Any]] = {
    **_FUSED,
    **{func: _unless_packed(written_out) for func, written_out in _RECURRENT.items()},
    F.embedding_bag: _flat_bags,
}
