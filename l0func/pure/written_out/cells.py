"""One step of each recurrent network, with torch's equations.

The ``*_step`` functions serve the networks in ``recurrent.py``; the ``*_cell`` functions have the
arguments of ``torch.lstm_cell`` and its like.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from l0func.pure.written_out.recurrent_checks import check_cell

Hidden = tuple[Tensor, ...]
"""A layer's hidden state in one direction; its first member is the output."""


class CellWeights(NamedTuple):
    """A layer's parameters in one direction."""

    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None
    b_hh: Tensor | None
    w_hr: Tensor | None = None


def lstm_step(x: Tensor, hidden: Hidden, w: CellWeights) -> Hidden:
    """The new output and cell state in a long short-term memory.

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
    """A gated recurrent unit's new hidden state.

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
    """An Elman unit's new hidden state with tanh, from the projected input ``(N, H)``."""
    projected = F.linear(hidden[0], w.w_hh, w.b_hh)
    return ((x + projected).tanh(),)


def relu_step(x: Tensor, hidden: Hidden, w: CellWeights) -> Hidden:
    """An Elman unit's new hidden state with ReLU, from the projected input ``(N, H)``."""
    projected = F.linear(hidden[0], w.w_hh, w.b_hh)
    return ((x + projected).relu(),)


def lstm_cell(
    input: Tensor,
    hx: Sequence[Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Hidden:
    """One LSTM step, with the arguments of ``torch.lstm_cell``.

    Returns:
        The new output and cell state, each ``(N, H)``.
    """
    check_cell("lstm_cell", 4, input, hx, w_ih, w_hh)
    x = F.linear(input, w_ih, b_ih)
    weights = CellWeights(w_ih, w_hh, b_ih, b_hh)
    return lstm_step(x, tuple(hx), weights)


def gru_cell(
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """One GRU step, with the arguments of ``torch.gru_cell``.

    Returns:
        The new hidden state, ``(N, H)``.
    """
    check_cell("gru_cell", 3, input, (hx,), w_ih, w_hh)
    x = F.linear(input, w_ih, b_ih)
    weights = CellWeights(w_ih, w_hh, b_ih, b_hh)
    (h,) = gru_step(x, (hx,), weights)
    return h


def rnn_tanh_cell(
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """One Elman step, with the arguments of ``torch.rnn_tanh_cell``.

    Returns:
        The new hidden state, ``(N, H)``.
    """
    check_cell("rnn_tanh_cell", 1, input, (hx,), w_ih, w_hh)
    x = F.linear(input, w_ih, b_ih)
    weights = CellWeights(w_ih, w_hh, b_ih, b_hh)
    (h,) = tanh_step(x, (hx,), weights)
    return h


def rnn_relu_cell(
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """One Elman step, with the arguments of ``torch.rnn_relu_cell``.

    Returns:
        The new hidden state, ``(N, H)``.
    """
    check_cell("rnn_relu_cell", 1, input, (hx,), w_ih, w_hh)
    x = F.linear(input, w_ih, b_ih)
    weights = CellWeights(w_ih, w_hh, b_ih, b_hh)
    (h,) = relu_step(x, (hx,), weights)
    return h
