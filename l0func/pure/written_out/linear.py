"""Products that vmap has no batching rule for."""

from __future__ import annotations

import torch
from torch import Tensor

from l0func.internal.untyped import untyped

BILINEAR = "...i,oij,...j->...o"


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""A form in two inputs, :math:`y_o = x_1^\top W_o x_2 + b_o`, with the arguments of
    ``F.bilinear``.

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
    r"""A weight of direction ``v`` and length ``g``, :math:`g\, v / \|v\|`, with the arguments of
    torch's own.

    Source: Salimans & Kingma (2016), arXiv:1602.07868, Eq. 2.

    Args:
        v: Any shape.
        g: Lengths along ``dim``, broadcastable to ``v``; a scalar for ``dim`` -1.
        dim: The dimension that keeps lengths of its own; -1 for none.

    Returns:
        The shape of ``v``.
    """
    others = [d for d in range(v.dim()) if dim == -1 or d != dim]
    return v * (g / untyped.linalg.vector_norm(v, dim=others, keepdim=True))
