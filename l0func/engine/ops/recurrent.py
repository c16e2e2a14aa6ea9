"""Recurrent layers as a loop over time: an input projection that stays gated, and a recurrent
weight laid out once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from l0func.pure.written_out import recurrent


def _without_dropout(x: Tensor, p: float) -> Tensor:
    raise AssertionError("A dropout that a key did not answer.")


def _unless_packed(written_out: Callable[..., Any]) -> Callable[..., Any]:
    def rule(*args: Any) -> Any:
        return (
            NotImplemented
            if recurrent.is_packed(args)
            else written_out(*args, dropout=_without_dropout)
        )

    return rule


HANDLERS: dict[Any, Callable[..., Any]] = {
    torch.lstm: _unless_packed(recurrent.lstm),
    torch.gru: _unless_packed(recurrent.gru),
    torch.rnn_tanh: _unless_packed(recurrent.rnn_tanh),
    torch.rnn_relu: _unless_packed(recurrent.rnn_relu),
    torch.lstm_cell: recurrent.lstm_cell,
    torch.gru_cell: recurrent.gru_cell,
    torch.rnn_tanh_cell: recurrent.rnn_tanh_cell,
    torch.rnn_relu_cell: recurrent.rnn_relu_cell,
}
