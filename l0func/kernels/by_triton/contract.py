"""The contraction, by the kernels that fit its sizes; torch operations do the rest."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from l0func.kernels import by_torch_contraction
from l0func.kernels.by_chunks import contracted_by_chunks
from l0func.kernels.by_triton.contraction_calls import contract_vectors, fill_chunk
from l0func.kernels.by_triton.launches import prepared
from l0func.kernels.contraction import Contraction, Operands, Output


def contract(
    contraction: Contraction, outputs: Sequence[Output], keys: Tensor, operands: Operands
) -> list[Tensor]:
    """See :func:`l0func.kernels.by_torch_contraction.contract`."""
    formula, log_alpha = contraction.distribution.formula, operands.log_alpha
    is_steep = any(output.order > 1 for output in outputs)
    if formula is None or is_steep or log_alpha.dtype != torch.float32:
        return by_torch_contraction.contract(contraction, outputs, keys, operands)
    if _has_one_vector(contraction, operands):
        return contract_vectors(contraction, formula, outputs, keys, operands)
    p, q = prepared(formula, log_alpha.flatten())
    a = p.new_empty(0) if operands.a is None else operands.a.flatten()
    fill = partial(fill_chunk, contraction, formula, p, q, a)
    return contracted_by_chunks(contraction, outputs, keys, operands, fill)


def _has_one_vector(contraction: Contraction, operands: Operands) -> bool:
    """Whether the contraction is a linear map with one vector for each key."""
    other = operands.x if operands.g is None else operands.g
    assert other is not None
    return contraction.convolution is None and other.shape[1] == 1
