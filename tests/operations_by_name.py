"""Each torch function with a handler under another name or form than in ``operations.py``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Formula = Callable[[Tensor, Tensor], Tensor]

# A function of a gated weight of shape (4, 6), and of an input with 6 columns and 2 rows.
BY_NAME: dict[str, Formula] = {
    "Tensor: mm": lambda w, x: x.mm(w.t()),
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
