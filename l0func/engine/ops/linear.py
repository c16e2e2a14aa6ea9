"""Products with a gated matrix: gates on rows scale outputs, gates on columns inputs, gates on
entries meet in the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from l0func.engine.contraction import product
from l0func.engine.ops import views
from l0func.engine.ops.gaussian import gaussian
from l0func.engine.parameter import GatedParameter, dense
from l0func.internal.untyped import TENSOR, untyped
from l0func.pure.written_out import linear as written_out


def gated_linear(input: Any, weight: Any, bias: Any = None) -> Any:
    """``F.linear``."""
    if (
        not isinstance(weight, GatedParameter)
        or isinstance(input, GatedParameter)
        or weight.dim() != 2
    ):
        return NotImplemented
    rows, columns = weight.scales
    x = input if columns is None else input * columns
    if weight.entry_gates is None:
        y = F.linear(x, weight.weight)
    elif weight.entry_gates.uses is not None:
        y = gaussian(F.linear, x, weight)
    else:
        y = product.masked_linear(x, weight.weight, weight.entry_gates)
    y = y if rows is None else y * rows
    return y if bias is None else y + dense(bias)


def matmul(input: Any, other: Any) -> Any:
    """``torch.matmul`` with a gated matrix on one side."""
    if (
        isinstance(other, GatedParameter)
        and other.dim() == 2
        and not isinstance(input, GatedParameter)
    ):
        return gated_linear(input, views.transpose(other, 0, 1))
    if isinstance(input, GatedParameter) and input.dim() == 2 and isinstance(other, Tensor):
        other = dense(other)
        return (
            gated_linear(other, input)
            if other.dim() == 1
            else gated_linear(other.transpose(-2, -1), input).transpose(-2, -1)
        )
    return NotImplemented


def _reflected(other: Any, input: Any) -> Any:
    return matmul(input, other)


def addmm(
    input: Any, mat1: Any, mat2: Any, *, beta: Any = 1, alpha: Any = 1, out: None = None
) -> Any:
    """``torch.addmm``."""
    y = matmul(mat1, mat2)
    return y if y is NotImplemented else beta * dense(input) + alpha * y


def einsum(equation: Any, *operands: Any) -> Any:
    """``torch.einsum`` of a bilinear form: a product with the outer products of the inputs."""
    if equation != written_out.BILINEAR or not isinstance(operands[1], GatedParameter):
        return NotImplemented
    input1, weight, input2 = operands
    flat = views.flatten(weight, 1)
    x = (input1.unsqueeze(-1) * input2.unsqueeze(-2)).flatten(-2)
    return NotImplemented if flat is NotImplemented else gated_linear(x, flat)


def gated_bilinear(input1: Any, input2: Any, weight: Any, bias: Any = None) -> Any:
    """``F.bilinear``."""
    y = einsum(written_out.BILINEAR, input1, weight, input2)
    if y is NotImplemented:
        return written_out.bilinear(dense(input1), dense(input2), dense(weight), dense(bias))
    return y if bias is None else y + dense(bias)


def scaled(input: Any, other: Any) -> Any:
    """A gated parameter times a number: still gated."""
    if isinstance(other, GatedParameter):
        input, other = other, input
    if isinstance(other, GatedParameter) or not isinstance(other, int | float):
        return NotImplemented
    return input.like(input.weight * other, input.scales, input.entry_gates)


def _negated(input: Any) -> Any:
    return scaled(input, -1)


HANDLERS: dict[Any, Callable[..., Any]] = {
    F.linear: gated_linear,
    F.bilinear: gated_bilinear,
    torch.einsum: einsum,
    **dict.fromkeys(
        (
            torch.matmul,
            torch.mm,
            torch.mv,
            TENSOR.matmul,
            TENSOR.mm,
            TENSOR.mv,
            TENSOR.__matmul__,
        ),
        matmul,
    ),
    TENSOR.__rmatmul__: _reflected,
    **dict.fromkeys((torch.addmm, torch.addmv, TENSOR.addmm, TENSOR.addmv), addmm),
    **dict.fromkeys(
        (
            torch.mul,
            TENSOR.mul,
            TENSOR.__mul__,
            TENSOR.__rmul__,
            torch.multiply,
            TENSOR.multiply,
        ),
        scaled,
    ),
    **dict.fromkeys((torch.neg, TENSOR.neg, TENSOR.__neg__, untyped.negative), _negated),
}
