"""Products in plain operations, because vmap has no batching rule for torch's own."""

from __future__ import annotations

import torch
from torch import Tensor

from l0func.internal.untyped import untyped

BILINEAR = "...i,oij,...j->...o"
"""The einsum of F.bilinear."""


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""A bilinear form, with the arguments of ``F.bilinear``.

    .. math:: y_o = x_1^\top W_o x_2 + b_o

    Args:
        input1: Shape ``(*batch, I)``.
        input2: Shape ``(*batch, J)``.
        weight: Shape ``(O, I, J)``.
        bias: Shape ``(O,)``.

    Returns:
        Shape ``(*batch, O)``.
    """
    y = torch.einsum(BILINEAR, input1, weight, input2)
    return y if bias is None else y + bias


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    r"""A weight with direction ``v`` and length ``g``, with the arguments of torch's own.

    .. math:: g\, v / \|v\|

    Source: Salimans & Kingma (2016), arXiv:1602.07868, Eq. 2.

    Args:
        v: Any shape.
        g: Lengths along ``dim``, broadcastable to ``v``; a scalar for ``dim`` -1.
        dim: The dimension that keeps its own lengths; -1 for none.

    Returns:
        A tensor shaped as ``v``.
    """
    others = [d for d in range(v.dim()) if d != dim]
    lengths = untyped.linalg.vector_norm(v, dim=others, keepdim=True)
    return v * (g / lengths)
