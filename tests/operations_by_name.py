"""Each torch function with a handler under another name or form than in ``operations.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Formula = Callable[[Tensor, Tensor], Tensor]
_UNTYPED: Any = torch


def _network(name: str, gates: int, hidden: int, states: int = 1) -> Formula:
    """A recurrent network of one layer, with the first rows of the weight as its weights."""

    def run(w: Tensor, x: Tensor) -> Tensor:
        rows = gates * hidden
        state = torch.full((1, 1, hidden), 0.3, dtype=x.dtype)
        hx = state if states == 1 else (state,) * states
        weights = (w[:rows], w[:rows, :hidden])
        function = getattr(_UNTYPED, name)
        return function(x[:, None], hx, weights, False, 1, 0.0, False, False, False)[0]

    return run


def _cell(name: str, gates: int, hidden: int, states: int = 1) -> Formula:
    def run(w: Tensor, x: Tensor) -> Tensor:
        state = torch.full((2, hidden), 0.3, dtype=x.dtype)
        hx = state if states == 1 else (state,) * states
        rows = gates * hidden
        out = getattr(_UNTYPED, f"{name}_cell")(x, hx, w[:rows], w[:rows, :hidden])
        return out if states == 1 else out[0] + out[1]

    return run


def _attention(w: Tensor, x: Tensor) -> Tensor:
    """Two heads of one feature: queries, keys and values by the whole weight."""
    q = x[:, None, :2]
    packed = w.reshape(12, 2)[:6]
    out, own = w.reshape(6, 4)[4:6, :2], (None, None, False, 0.0)
    call = F.multi_head_attention_forward
    return call(q, q, q, 2, 2, packed, None, *own, out, None, training=False)[0]


# A function of a gated weight of shape (4, 6), and of an input with 6 columns and 2 rows.
BY_NAME: dict[str, Formula] = {
    "Tensor: mm": lambda w, x: x.mm(w.t()),
    "F: multi_head_attention_forward": _attention,
    "torch: lstm": _network("lstm", 4, 1, states=2),
    "torch: lstm_cell": _cell("lstm", 4, 1, states=2),
    "torch: gru": _network("gru", 3, 1),
    "torch: gru_cell": _cell("gru", 3, 1),
    "torch: rnn_tanh": _network("rnn_tanh", 1, 4),
    "torch: rnn_tanh_cell": _cell("rnn_tanh", 1, 4),
    "torch: rnn_relu": _network("rnn_relu", 1, 4),
    "torch: rnn_relu_cell": _cell("rnn_relu", 1, 4),
    "Tensor: __matmul__": lambda w, x: x.__matmul__(w.t()),
    "Tensor: __mul__": lambda w, x: F.linear(x, w.__mul__(0.5)),
    "Tensor: __rmul__": lambda w, x: F.linear(x, w.__rmul__(0.5)),
    "Tensor: mv": lambda w, x: w.mv(x[0]),
    "Tensor: __rmatmul__": lambda w, x: w.T.__rmatmul__(x),
    "torch: addmv": lambda w, x: torch.addmv(x[0, :4], w, x[1]),
    "Tensor: addmv": lambda w, x: x[0, :4].addmv(w, x[1]),
    "Tensor: addmm": lambda w, x: x[:, :4].addmm(x, w.t()),
    "torch: einsum": lambda w, x: torch.einsum("ni,oi->no", x, w),
    "torch: mul": lambda w, x: F.linear(x, torch.mul(w, 0.5)),
    "torch: multiply": lambda w, x: F.linear(x, torch.multiply(w, 0.5)),
    "Tensor: multiply": lambda w, x: F.linear(x, w.multiply(0.5)),
    "torch: neg": lambda w, x: F.linear(x, torch.neg(w)),
    "torch: negative": lambda w, x: F.linear(x, torch.negative(w)),
    "Tensor: neg": lambda w, x: F.linear(x, w.neg()),
    "torch: transpose": lambda w, x: x @ torch.transpose(w, 0, 1),
    "torch: swapaxes": lambda w, x: x @ torch.swapaxes(w, 0, 1),
    "Tensor: swapaxes": lambda w, x: x @ w.swapaxes(0, 1),
    "torch: permute": lambda w, x: x @ torch.permute(w, (1, 0)),
    "Tensor: permute": lambda w, x: x @ w.permute(1, 0),
    "torch: t": lambda w, x: x @ torch.t(w),
    "Tensor: contiguous": lambda w, x: F.linear(x, w.contiguous()),
    "torch: chunk": lambda w, x: F.linear(x, torch.chunk(w, 2)[1]),
    "torch: split": lambda w, x: F.linear(x, torch.split(w, 2)[1]),
    "Tensor: split": lambda w, x: F.linear(x, w.split([1, 3])[1]),
    "torch: select": lambda w, x: x @ torch.select(w, 0, 2),
    "torch: flatten": lambda w, x: F.linear(x, torch.flatten(w[:, :, None], 1)),
    "torch: unsqueeze": lambda w, x: F.conv1d(x[:, :, None], torch.unsqueeze(w, -1)),
    "torch: squeeze": lambda w, x: F.linear(x, torch.squeeze(w[:, None], 1)),
}
