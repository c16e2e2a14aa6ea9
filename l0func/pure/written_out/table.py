"""The table of torch functions that are written out in plain operations.

The contexts ``Keyed``, ``ByRow`` and ``WrittenOut`` read it, and so do the handlers for attention
and recurrent layers on gated parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from l0func.internal.untyped import untyped
from l0func.pure.signature import Signature
from l0func.pure.written_out import attention, cells, embedding, linear, multi_head, recurrent

_PACKED = Signature(
    names=(
        "data",
        "batch_sizes",
        "hx",
        "weights",
        "has_biases",
        "num_layers",
        "dropout_p",
        "train",
        "bidirectional",
    ),
    defaults={},
)
"""torch.lstm, gru, rnn_tanh and rnn_relu take these arguments for a packed sequence."""


Arguments = Mapping[str, Any]
"""The arguments of one call by name."""


class Replacement(NamedTuple):
    """One torch function written out.

    Args:
        function: The function in plain operations, with the arguments of torch's own. A function
            with dropout also takes ``dropout=``.
        run: The same function for a call that applies no dropout. A recurrent network returns
            NotImplemented for a packed sequence.
        signature: Names and defaults for its arguments.
        has_dropout: From the call's arguments to whether they ask for dropout; None for a function
            without dropout.
        packs: Whether torch's own function also takes packed sequences.
    """

    function: Callable[..., Any]
    run: Callable[..., Any]
    signature: Signature
    has_dropout: Callable[[Arguments], bool] | None = None
    packs: bool = False

    def applies_dropout(self, args: tuple[Any, ...], named: Mapping[str, Any]) -> bool:
        """Whether a call with these arguments applies dropout."""
        if self.has_dropout is None:
            return False
        signature = _PACKED if self.packs and is_packed(args) else self.signature
        return self.has_dropout(signature.bind(args, named))


def is_packed(args: Sequence[Any]) -> bool:
    """Whether a recurrent function's positional arguments hold a packed sequence.

    They are ``(data, batch_sizes, hx, weights, has_biases, ...)``, and otherwise ``(input, hx,
    weights, has_biases, ...)``. Both have nine entries.
    """
    third, fourth = args[2:4]
    return isinstance(third, Tensor) or not isinstance(fourth, bool)


def _attention_drops(call: Arguments) -> bool:
    return call["dropout_p"] != 0.0


def _multi_head_drops(call: Arguments) -> bool:
    return call["training"] and call["dropout_p"] != 0.0


def _network_drops(call: Arguments) -> bool:
    # Dropout acts between layers.
    return call["train"] and call["dropout_p"] != 0.0 and call["num_layers"] != 1


def _refuse_dropout(x: Tensor, p: float) -> Tensor:
    raise AssertionError("Keyed handles every active dropout, but one came to a replacement.")


def _without_dropout(function: Callable[..., Any]) -> Replacement:
    return Replacement(function, function, Signature.of(function))


def _with_dropout(
    function: Callable[..., Any], has_dropout: Callable[[Arguments], bool]
) -> Replacement:
    run = partial(function, dropout=_refuse_dropout)
    return Replacement(function, run, Signature.of(function), has_dropout)


def _network(function: Callable[..., Any]) -> Replacement:
    def run(*args: Any) -> Any:
        if is_packed(args):
            return NotImplemented
        return function(*args, dropout=_refuse_dropout)

    return Replacement(function, run, Signature.of(function), _network_drops, packs=True)


_ATTENTION: dict[Any, Replacement] = {
    F.scaled_dot_product_attention: _with_dropout(
        attention.scaled_dot_product_attention, _attention_drops
    ),
    F.multi_head_attention_forward: _with_dropout(
        multi_head.multi_head_attention_forward, _multi_head_drops
    ),
}
_PRODUCTS: dict[Any, Replacement] = {
    F.bilinear: _without_dropout(linear.bilinear),
    untyped._weight_norm: _without_dropout(linear.weight_norm),
    F.embedding_bag: _without_dropout(embedding.bags_of_one_size),
}
NETWORKS: dict[Any, Replacement] = {
    torch.lstm: _network(recurrent.lstm),
    torch.gru: _network(recurrent.gru),
    torch.rnn_tanh: _network(recurrent.rnn_tanh),
    torch.rnn_relu: _network(recurrent.rnn_relu),
}
"""Recurrent networks, over time and layers."""
CELLS: dict[Any, Replacement] = {
    torch.lstm_cell: _without_dropout(cells.lstm_cell),
    torch.gru_cell: _without_dropout(cells.gru_cell),
    torch.rnn_tanh_cell: _without_dropout(cells.rnn_tanh_cell),
    torch.rnn_relu_cell: _without_dropout(cells.rnn_relu_cell),
}
"""One step in a recurrent network."""
REPLACEMENTS: dict[Any, Replacement] = {**_ATTENTION, **_PRODUCTS, **NETWORKS, **CELLS}
"""Every torch function that is written out."""
