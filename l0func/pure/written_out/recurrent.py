"""Recurrent networks in plain operations: a loop over layers, directions and time.

vmap, jvp and double backward cannot follow torch's fused functions, and dropout in them cannot
draw from a key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from l0func.pure.written_out.cells import (
    CellWeights,
    Hidden,
    gru_step,
    lstm_step,
    relu_step,
    tanh_step,
)
from l0func.pure.written_out.dropout import Dropout
from l0func.pure.written_out.recurrent_checks import check_network
from l0func.pure.written_out.sequences import warn_of_one_step

_Step = Callable[[Tensor, Hidden, CellWeights], Hidden]
"""(projected input, hidden state, weights) to the new hidden state."""


def lstm(
    input: Tensor,
    hx: Sequence[Tensor],
    weights: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout_p: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
    *,
    dropout: Dropout,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""A long short-term memory network, with the arguments of ``torch.lstm``.

    .. math::
        i, f, g, o = W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh}, \quad
        c_t = \sigma(f)\, c_{t-1} + \sigma(i) \tanh g, \quad
        h_t = W_{hr} (\sigma(o) \tanh c_t)

    Source: Hochreiter & Schmidhuber (1997), "Long short-term memory"; with a projection, Sak,
    Senior & Beaufays (2014), arXiv:1402.1128.

    Args:
        input: Shape ``(T, N, I)``, or ``(N, T, I)`` with ``batch_first``.
        hx: The initial output, ``(layers * directions, N, H or projection)``, and the initial cell
            state, ``(layers * directions, N, H)``.
        weights: For each layer and direction: w_ih, w_hh, then b_ih and b_hh if there are biases,
            then w_hr if there is a projection.
        has_biases: Whether there are biases.
        num_layers: At least 1.
        dropout_p: Probability that an output between layers is dropped.
        train: Whether dropout applies.
        bidirectional: Whether each layer also runs backwards.
        batch_first: Whether ``input`` and output have the batch before the time.
        dropout: Applies dropout; called with p > 0 only.

    Returns:
        The last layer's outputs, ``(T, N, directions * (H or projection))`` or batch first; then
        the final outputs and the final cell states for all layers, shaped as in ``hx``.
    """
    p = dropout_p if train else 0.0
    settings = (has_biases, num_layers, p, bidirectional, batch_first)
    network = _Network("lstm", weights, *settings, dropout)
    output, (h, c) = network.run(lstm_step, input, tuple(hx))
    return output, h, c


def gru(
    input: Tensor,
    hx: Tensor,
    weights: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout_p: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
    *,
    dropout: Dropout,
) -> tuple[Tensor, Tensor]:
    r"""A gated recurrent unit network, with the arguments of ``torch.gru``.

    .. math::
        r, z = \sigma(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh}), \quad
        n = \tanh(W_{in} x_t + b_{in} + r\, (W_{hn} h_{t-1} + b_{hn})), \quad
        h_t = (1 - z)\, n + z\, h_{t-1}

    Source: Cho et al. (2014), arXiv:1406.1078.

    Args:
        input: Shape ``(T, N, I)``, or ``(N, T, I)`` with ``batch_first``.
        hx: The initial hidden state, ``(layers * directions, N, H)``.
        weights: As for :func:`lstm`.
        has_biases: Whether there are biases.
        num_layers: At least 1.
        dropout_p: Probability that an output between layers is dropped.
        train: Whether dropout applies.
        bidirectional: Whether each layer also runs backwards.
        batch_first: Whether ``input`` and output have the batch before the time.
        dropout: Applies dropout; called with p > 0 only.

    Returns:
        The last layer's outputs, ``(T, N, directions * H)`` or batch first; then the final hidden
        states for all layers, shaped as ``hx``.
    """
    p = dropout_p if train else 0.0
    settings = (has_biases, num_layers, p, bidirectional, batch_first)
    network = _Network("gru", weights, *settings, dropout)
    output, (h,) = network.run(gru_step, input, (hx,))
    return output, h


def rnn_tanh(
    input: Tensor,
    hx: Tensor,
    weights: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout_p: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
    *,
    dropout: Dropout,
) -> tuple[Tensor, Tensor]:
    r"""An Elman network with tanh, with the arguments of ``torch.rnn_tanh``.

    .. math:: h_t = \tanh(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh})

    Source: Elman (1990), "Finding structure in time". Arguments and results as for :func:`gru`.
    """
    p = dropout_p if train else 0.0
    settings = (has_biases, num_layers, p, bidirectional, batch_first)
    network = _Network("rnn_tanh", weights, *settings, dropout)
    output, (h,) = network.run(tanh_step, input, (hx,))
    return output, h


def rnn_relu(
    input: Tensor,
    hx: Tensor,
    weights: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout_p: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
    *,
    dropout: Dropout,
) -> tuple[Tensor, Tensor]:
    r"""An Elman network with ReLU, with the arguments of ``torch.rnn_relu``.

    .. math:: h_t = \mathrm{relu}(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh})

    Source: Elman (1990), "Finding structure in time". Arguments and results as for :func:`gru`.
    """
    p = dropout_p if train else 0.0
    settings = (has_biases, num_layers, p, bidirectional, batch_first)
    network = _Network("rnn_relu", weights, *settings, dropout)
    output, (h,) = network.run(relu_step, input, (hx,))
    return output, h


class _Network(NamedTuple):
    """The loop over layers, directions and time that all recurrent networks share."""

    name: str
    weights: Sequence[Tensor]
    has_biases: bool
    num_layers: int
    dropout_p: float
    bidirectional: bool
    batch_first: bool
    dropout: Dropout

    def run(self, step: _Step, input: Tensor, initial: Hidden) -> tuple[Tensor, Hidden]:
        directions = 2 if self.bidirectional else 1
        cells, count = self.num_layers * directions, len(self.weights)
        check_network(self.name, input, initial, count, self.has_biases, cells)
        weights = self._by_direction(directions)
        x = input.transpose(0, 1) if self.batch_first else input
        warn_of_one_step(self.name, x, x.shape[0], 1 if self.batch_first else x.shape[1])
        finals: list[Hidden] = []
        for layer in range(self.num_layers):
            if layer > 0 and self.dropout_p > 0.0:
                x = self.dropout(x, self.dropout_p)
            outputs: list[Tensor] = []
            for direction in range(directions):
                index = layer * directions + direction
                first = tuple(h[index] for h in initial)
                output, final = _over_time(step, x, first, weights[index], direction == 1)
                outputs.append(output)
                finals.append(final)
            x = torch.cat(outputs, dim=-1)
        last = tuple(torch.stack(members) for members in zip(*finals, strict=True))
        return (x.transpose(0, 1) if self.batch_first else x), last

    def _by_direction(self, directions: int) -> list[CellWeights]:
        """The weights for every layer and direction, in torch's order."""
        total = len(self.weights)
        each = total // (self.num_layers * directions)
        bounds = pairwise(range(0, total + 1, each))
        return [self._named(self.weights[start:stop]) for start, stop in bounds]

    def _named(self, own: Sequence[Tensor]) -> CellWeights:
        w_ih, w_hh, *others = own
        b_ih, b_hh = others[:2] if self.has_biases else (None, None)
        projects = len(own) == (5 if self.has_biases else 3)
        # Every step reads w_hh and w_hr. contiguous() makes a gated parameter draw its masks once
        # here, and not at every step.
        w_hr = own[-1].contiguous() if projects else None
        return CellWeights(w_ih, w_hh.contiguous(), b_ih, b_hh, w_hr)


def _over_time(
    step: _Step, x: Tensor, hidden: Hidden, w: CellWeights, backwards: bool
) -> tuple[Tensor, Hidden]:
    """One layer's outputs ``(T, N, H)`` in one direction, and its final hidden state."""
    projected = F.linear(x, w.w_ih, w.b_ih).unbind(0)
    outputs: list[Tensor] = []
    for x_t in reversed(projected) if backwards else projected:
        hidden = step(x_t, hidden, w)
        outputs.append(hidden[0])
    if backwards:
        outputs.reverse()
    return torch.stack(outputs), hidden
