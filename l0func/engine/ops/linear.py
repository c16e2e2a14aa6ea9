"""Matrix products with a gated matrix.

Gates on output rows scale the output, gates on input columns scale the input, and gates on single
entries are drawn inside the product's kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from l0func.engine.contraction import product
from l0func.engine.ops import reshape, views
from l0func.engine.ops.fits import check_added
from l0func.engine.ops.gaussian import gaussian
from l0func.engine.ops.table import HandlerTable
from l0func.engine.parameter import GatedParameter, dense
from l0func.internal.context import has_one_dtype
from l0func.internal.untyped import TENSOR, untyped
from l0func.pure.written_out import linear as written_out

HANDLERS = HandlerTable()


@HANDLERS.runs_for(F.linear)
def gated_linear(input: Any, weight: Any, bias: Any = None) -> Any:
    """``F.linear`` with a gated weight."""
    if not _is_matrix(weight) or isinstance(input, GatedParameter):
        return NotImplemented
    if input.shape[-1:] != weight.shape[1:] or not has_one_dtype(input, weight):
        return NotImplemented
    y = scaled_product(input, weight)
    if bias is None:
        return y
    check_added(F.linear, bias, y.shape, weight)
    return y + dense(bias)


def scaled_product(
    x: Tensor, weight: GatedParameter, plain: Callable[[Tensor, Tensor], Tensor] = F.linear
) -> Tensor:
    """``x @ (weight * mask).T``.

    Args:
        x: Shape ``(*rows, I)``.
        weight: A gated matrix, ``(O, I)``.
        plain: The product with a plain matrix.
    """
    output_scale, input_scale = weight.scales
    scaled_x = x if input_scale is None else x * input_scale
    y = _unscaled_product(scaled_x, weight, plain)
    return y if output_scale is None else y * output_scale


def _is_matrix(weight: Any) -> bool:
    return isinstance(weight, GatedParameter) and weight.dim() == 2


def _unscaled_product(
    x: Tensor, weight: GatedParameter, plain: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """``x @ (weight * masks).T`` with the entry gates' masks; the caller applies the scales."""
    gates = weight.entry_gates
    if gates is None:
        return plain(x, weight.weight)
    if gates.local_reparam:
        return gaussian(plain, x, weight)
    return product.masked_linear(x, weight.weight, gates)


@HANDLERS.runs_for(torch.matmul, TENSOR.matmul, TENSOR.__matmul__)
def matmul(input: Any, other: Any) -> Any:
    """``torch.matmul`` with a gated matrix on one side."""
    if _is_matrix(other) and not isinstance(input, GatedParameter):
        return gated_linear(input, views.transpose(other, 0, 1))
    if _is_matrix(input) and isinstance(other, Tensor):
        return _from_the_left(input, dense(other))
    return NotImplemented


@HANDLERS.runs_for(torch.mm, TENSOR.mm)
def _mm(input: Any, mat2: Any) -> Any:
    return matmul(input, mat2) if input.dim() == mat2.dim() == 2 else NotImplemented


@HANDLERS.runs_for(torch.mv, TENSOR.mv)
def _mv(input: Any, vec: Any) -> Any:
    is_product = input.dim() == 2 and vec.dim() == 1
    return matmul(input, vec) if is_product else NotImplemented


def _from_the_left(matrix: GatedParameter, other: Tensor) -> Any:
    """``matrix @ other``, as a linear map on the columns."""
    if other.dim() == 1:
        return gated_linear(other, matrix)
    y = gated_linear(other.transpose(-2, -1), matrix)
    return y if y is NotImplemented else y.transpose(-2, -1)


@HANDLERS.runs_for(TENSOR.__rmatmul__)
def _reflected(other: Any, input: Any) -> Any:
    return matmul(input, other)


@HANDLERS.runs_for(torch.addmm, TENSOR.addmm)
def addmm(input: Any, mat1: Any, mat2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """``torch.addmm`` with a gated matrix."""
    return _added(torch.addmm, input, _mm(mat1, mat2), beta, alpha)


def _added(function: Any, input: Any, y: Any, beta: Any, alpha: Any) -> Any:
    if y is NotImplemented:
        return NotImplemented
    check_added(function, input, y.shape, y)
    # Torch ignores the input if beta is 0, even NaNs.
    return alpha * y if beta == 0 else beta * dense(input) + alpha * y


@HANDLERS.runs_for(torch.addmv, TENSOR.addmv)
def _addmv(input: Any, mat: Any, vec: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    return _added(torch.addmv, input, _mv(mat, vec), beta, alpha)


@HANDLERS.runs_for(torch.einsum)
def einsum(equation: Any, *operands: Any) -> Any:
    """``torch.einsum`` for a bilinear form: a linear map on the inputs' outer products."""
    if equation != written_out.BILINEAR or not isinstance(operands[1], GatedParameter):
        return NotImplemented
    input1, weight, input2 = operands
    if (*input1.shape[-1:], *input2.shape[-1:]) != tuple(weight.shape[1:]):
        return NotImplemented
    if not has_one_dtype(input1, weight, input2):
        return NotImplemented
    flat_weight = reshape.flatten(weight, 1)
    if flat_weight is NotImplemented:
        return NotImplemented
    outer = input1.unsqueeze(-1) * input2.unsqueeze(-2)
    return gated_linear(outer.flatten(-2), flat_weight)


@HANDLERS.runs_for(F.bilinear)
def gated_bilinear(input1: Any, input2: Any, weight: Any, bias: Any = None) -> Any:
    """``F.bilinear`` with a gated weight."""
    written_out.check_bilinear(input1, input2, weight, bias)
    y = einsum(written_out.BILINEAR, input1, weight, input2)
    if y is NotImplemented:
        return written_out.bilinear(dense(input1), dense(input2), dense(weight), dense(bias))
    return y if bias is None else y + dense(bias)


@HANDLERS.runs_for(torch.mul, torch.multiply, TENSOR.mul, TENSOR.multiply)
@HANDLERS.runs_for(TENSOR.__mul__, TENSOR.__rmul__)
def scaled(input: Any, other: Any) -> Any:
    """A gated parameter times a Python number: still gated."""
    if isinstance(other, GatedParameter):
        input, other = other, input
    if isinstance(other, GatedParameter) or not isinstance(other, (int, float)):
        return NotImplemented
    return input.like(input.weight * other, input.scales, input.entry_gates)


@HANDLERS.runs_for(torch.neg, untyped.negative, TENSOR.neg, TENSOR.__neg__)
def _negated(input: Any) -> Any:
    return scaled(input, -1)
