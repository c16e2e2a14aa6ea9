"""Products in plain operations, because vmap has no batching rule for torch's own."""

from __future__ import annotations

import torch
from torch import Tensor

from l0func.internal.context import has_one_dtype
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
    check_bilinear(input1, input2, weight, bias)
    y = torch.einsum(BILINEAR, input1, weight, input2)
    return y if bias is None else y + bias


def check_bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Refuse inputs that F.bilinear refuses: einsum would broadcast them.

    Raises:
        ValueError: The inputs, the weight and the bias do not fit together, or differ in dtype.
    """
    shapes = [tuple(x.shape) for x in (input1, input2, weight)]
    fits = weight.dim() == 3 and shapes[0][:-1] == shapes[1][:-1]
    fits = fits and (*shapes[0][-1:], *shapes[1][-1:]) == shapes[2][1:]
    if not fits or (bias is not None and tuple(bias.shape) not in ((1,), shapes[2][:1])):
        biased = "" if bias is None else f", with a bias {tuple(bias.shape)}"
        raise ValueError(
            "torch function 'bilinear' takes inputs (*batch, I) and (*batch, J), a weight "
            f"(O, I, J) and a bias (O,); got {shapes[0]}, {shapes[1]} and {shapes[2]}{biased}."
        )
    if not has_one_dtype(input1, input2, weight, bias):
        given = [str(t.dtype) for t in (input1, input2, weight, bias) if t is not None]
        raise ValueError(
            f"torch function 'bilinear' takes tensors of one dtype; got {', '.join(given)}."
        )


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
    if not -1 <= dim < v.dim():
        raise ValueError(
            f"torch function '_weight_norm' takes a dimension of its weight, or -1; got dim={dim} "
            f"for a weight of shape {tuple(v.shape)}."
        )
    others = [d for d in range(v.dim()) if d != dim]
    lengths = untyped.linalg.vector_norm(v, dim=others, keepdim=True)
    return v * (g / lengths)
