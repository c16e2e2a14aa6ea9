"""Recurrent layers written out as a loop over time: what vmap, jvp, double backward and a keyed
dropout can follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from l0func.pure.written_out.attention import Dropout

Hidden = tuple[Tensor, ...]


class _Weights(NamedTuple):
    """The parameters of one layer in one direction."""

    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None
    b_hh: Tensor | None
    w_hr: Tensor | None


# (input projection, state, weights) to the new state, whose first member is the output.
_Cell = Callable[[Tensor, Hidden, _Weights], Hidden]


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
        hx: Initial output ``(layers * directions, N, H or projection)`` and cell state ``(layers *
            directions, N, H)``.
        weights: For each layer and direction w_ih, w_hh, then b_ih and b_hh with biases, then w_hr
            with a projection.
        has_biases: Whether there are biases.
        num_layers: Number of layers.
        dropout_p: Probability of dropping an output between layers.
        train: Whether dropout applies.
        bidirectional: Whether each layer also runs backwards.
        batch_first: The layout of ``input`` and of the output.
        dropout: Where the draws come from.

    Returns:
        Outputs of the last layer, ``(T, N, directions * (H or projection))`` in the layout of
        ``input``, and the final outputs and cell states of all layers, of the shapes in ``hx``.
    """
    run = _Network(
        weights,
        has_biases,
        num_layers,
        dropout_p if train else 0.0,
        bidirectional,
        batch_first,
        dropout,
    )
    output, (h, c) = run(_lstm_cell, input, tuple(hx))
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
    r"""A network of gated recurrent units, with the arguments of ``torch.gru``.

    .. math::
        r, z = \sigma(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh}), \quad
        n = \tanh(W_{in} x_t + b_{in} + r\, (W_{hn} h_{t-1} + b_{hn})), \quad
        h_t = (1 - z)\, n + z\, h_{t-1}

    Source: Cho et al. (2014), arXiv:1406.1078.

    Args:
        input: Shape ``(T, N, I)``, or ``(N, T, I)`` with ``batch_first``.
        hx: Initial state, ``(layers * directions, N, H)``.
        weights: As for :func:`lstm`.
        has_biases: Whether there are biases.
        num_layers: Number of layers.
        dropout_p: Probability of dropping an output between layers.
        train: Whether dropout applies.
        bidirectional: Whether each layer also runs backwards.
        batch_first: The layout of ``input`` and of the output.
        dropout: Where the draws come from.

    Returns:
        Outputs of the last layer, ``(T, N, directions * H)`` in the layout of ``input``, and the
        final states of all layers, of the shape of ``hx``.
    """
    run = _Network(
        weights,
        has_biases,
        num_layers,
        dropout_p if train else 0.0,
        bidirectional,
        batch_first,
        dropout,
    )
    output, (h,) = run(_gru_cell, input, (hx,))
    return output, h


def _elman(activation: Callable[[Tensor], Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    def cell(x: Tensor, state: Hidden, w: _Weights) -> Hidden:
        return (activation(x + F.linear(state[0], w.w_hh, w.b_hh)),)

    def network(
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
        r"""A network of Elman units, :math:`h_t = a(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} +
        b_{hh})`.

        Source: Elman (1990), "Finding structure in time". Arguments and results as for
        :func:`gru`.
        """
        run = _Network(
            weights,
            has_biases,
            num_layers,
            dropout_p if train else 0.0,
            bidirectional,
            batch_first,
            dropout,
        )
        output, (h,) = run(cell, input, (hx,))
        return output, h

    return network


rnn_tanh = _elman(torch.tanh)
rnn_relu = _elman(torch.relu)


def lstm_cell(
    input: Tensor,
    hx: Sequence[Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Hidden:
    """One step of :func:`lstm`, with the arguments of ``torch.lstm_cell``: the new output and cell
    state.
    """
    return _lstm_cell(
        F.linear(input, w_ih, b_ih), tuple(hx), _Weights(w_ih, w_hh, b_ih, b_hh, None)
    )


def gru_cell(
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """One step of :func:`gru`, with the arguments of ``torch.gru_cell``: the new state."""
    return _gru_cell(F.linear(input, w_ih, b_ih), (hx,), _Weights(w_ih, w_hh, b_ih, b_hh, None))[0]


def _elman_cell(activation: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def cell(
        input: Tensor,
        hx: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> Tensor:
        """One step of an Elman network, with the arguments of ``torch.rnn_tanh_cell``: the new
        state.
        """
        return activation(F.linear(input, w_ih, b_ih) + F.linear(hx, w_hh, b_hh))

    return cell


rnn_tanh_cell = _elman_cell(torch.tanh)
rnn_relu_cell = _elman_cell(torch.relu)


def is_packed(args: Sequence[Any]) -> bool:
    """Whether a recurrent function's positional arguments are a packed sequence's: ``(data,
    batch_sizes, hx, ...)``.
    """
    # Without packing the third argument is the list of weights.
    hx = args[2]
    return isinstance(hx, Tensor) or not isinstance(args[3], bool)


def _lstm_cell(x: Tensor, state: Hidden, w: _Weights) -> Hidden:
    h, c = state
    i, f, g, o = (x + F.linear(h, w.w_hh, w.b_hh)).chunk(4, dim=-1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return (h if w.w_hr is None else F.linear(h, w.w_hr)), c


def _gru_cell(x: Tensor, state: Hidden, w: _Weights) -> Hidden:
    (h,) = state
    x_r, x_z, x_n = x.chunk(3, dim=-1)
    h_r, h_z, h_n = F.linear(h, w.w_hh, w.b_hh).chunk(3, dim=-1)
    z = (x_z + h_z).sigmoid()
    n = (x_n + (x_r + h_r).sigmoid() * h_n).tanh()
    return ((1.0 - z) * n + z * h,)


class _Network(NamedTuple):
    """The loop over layers, directions and time that all recurrent networks share."""

    weights: Sequence[Tensor]
    has_biases: bool
    num_layers: int
    dropout_p: float
    bidirectional: bool
    batch_first: bool
    dropout: Dropout

    def __call__(self, cell: _Cell, input: Tensor, initial: Hidden) -> tuple[Tensor, Hidden]:
        directions = 2 if self.bidirectional else 1
        parameters = self._by_direction(directions)
        x = input.transpose(0, 1) if self.batch_first else input
        finals: list[Hidden] = []
        for layer in range(self.num_layers):
            if layer > 0 and self.dropout_p > 0.0:
                x = self.dropout(x, self.dropout_p)
            runs: list[Tensor] = []
            for direction in range(directions):
                index = layer * directions + direction
                state = tuple(s[index] for s in initial)
                output, final = _over_time(
                    cell, x, state, parameters[index], backwards=direction == 1
                )
                runs.append(output)
                finals.append(final)
            x = torch.cat(runs, dim=-1)
        states = tuple(torch.stack(members) for members in zip(*finals, strict=True))
        return (x.transpose(0, 1) if self.batch_first else x), states

    def _by_direction(self, directions: int) -> list[_Weights]:
        count = self.num_layers * directions
        bounds = range(0, len(self.weights) + 1, len(self.weights) // count)
        return [self._named(self.weights[start:stop]) for start, stop in pairwise(bounds)]

    def _named(self, own: Sequence[Tensor]) -> _Weights:
        biases = (own[2], own[3]) if self.has_biases else (None, None)
        projection = own[-1] if len(own) == (5 if self.has_biases else 3) else None
        # Read at every step: what is only a recipe for a weight is laid out once.
        each_step = None if projection is None else projection.contiguous()
        return _Weights(own[0], own[1].contiguous(), *biases, each_step)


def _over_time(
    cell: _Cell, x: Tensor, state: Hidden, w: _Weights, backwards: bool
) -> tuple[Tensor, Hidden]:
    projected = F.linear(x, w.w_ih, w.b_ih).unbind(0)
    outputs: list[Tensor] = []
    for step in reversed(projected) if backwards else projected:
        state = cell(step, state, w)
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if backwards else outputs), state
