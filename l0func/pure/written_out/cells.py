"""One step of each recurrent network, with torch's equations.

The ``*_step`` functions serve the networks in ``recurrent.py``; the ``*_cell`` functions have the
arguments of ``torch.lstm_cell`` and its like.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

Hidden = tuple[Tensor, ...]
"""The hidden state of one layer in one direction; its first member is the output."""


class CellWeights(NamedTuple):
    """The parameters of one layer in one direction."""

    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None
    b_hh: Tensor | None
    w_hr: Tensor | None = None


def lstm_step(x: Tensor, hidden: Hidden, w: CellWeights) -> Hidden:
    """The new output and cell state of a long short-term memory.

    Args:
        x: The projected input, :math:`W_{ih} x_t + b_{ih}`, shape ``(N, 4H)``.
        hidden: The last output ``(N, H or projection)`` and cell state ``(N, H)``.
        w: The weights.
    """
    h, c = hidden
    projected = F.linear(h, w.w_hh, w.b_hh)
    i, f, g, o = (x + projected).chunk(4, dim=-1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    if w.w_hr is not None:
        h = F.linear(h, w.w_hr)
    return h, c


def gru_step(x: Tensor, hidden: Hidden, w: CellWeights) -> Hidden:
    """The new hidden state of a gated recurrent unit.

    Args:
        x: The projected input, shape ``(N, 3H)``.
        hidden: The last hidden state, ``(N, H)``.
        w: The weights.
    """
    (h,) = hidden
    x_r, x_z, x_n = x.chunk(3, dim=-1)
    projected = F.linear(h, w.w_hh, w.b_hh)
    h_r, h_z, h_n = projected.chunk(3, dim=-1)
    r = (x_r + h_r).sigmoid()
    z = (x_z + h_z).sigmoid()
    n = (x_n + r * h_n).tanh()
    return ((1.0 - z) * n + z * h,)


def tanh_step(x: Tensor, hidden: Hidden, w: CellWeights) -> Hidden:
    """The new hidden state of an Elman unit with tanh, from the projected input ``(N, H)``."""
    return ((x + F.linear(hidden[0], w.w_hh, w.b_hh)).tanh(),)


def relu_step(x: Tensor, hidden: Hidden, w: CellWeights) -> Hidden:
    """The new hidden state of an Elman unit with ReLU, from the projected input ``(N, H)``."""
    return ((x + F.linear(hidden[0], w.w_hh, w.b_hh)).relu(),)


def lstm_cell(
    input: Tensor,
    hx: Sequence[Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Hidden:
    """One step of an LSTM, with the arguments of ``torch.lstm_cell``.

    Returns:
        The new output and cell state, each ``(N, H)``.
    """
    x = F.linear(input, w_ih, b_ih)
    return lstm_step(x, tuple(hx), CellWeights(w_ih, w_hh, b_ih, b_hh))


def gru_cell(
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """One step of a GRU, with the arguments of ``torch.gru_cell``.

    Returns:
        The new hidden state, ``(N, H)``.
    """
    x = F.linear(input, w_ih, b_ih)
    (h,) = gru_step(x, (hx,), CellWeights(w_ih, w_hh, b_ih, b_hh))
    return h


def rnn_tanh_cell(
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """One step of an Elman network, with the arguments of ``torch.rnn_tanh_cell``.

    Returns:
        The new hidden state, ``(N, H)``.
    """
    x = F.linear(input, w_ih, b_ih)
    (h,) = tanh_step(x, (hx,), CellWeights(w_ih, w_hh, b_ih, b_hh))
    return h


def rnn_relu_cell(
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """One step of an Elman network, with the arguments of ``torch.rnn_relu_cell``.

    Returns:
        The new hidden state, ``(N, H)``.
    """
    x = F.linear(input, w_ih, b_ih)
    (h,) = relu_step(x, (hx,), CellWeights(w_ih, w_hh, b_ih, b_hh))
    return h
