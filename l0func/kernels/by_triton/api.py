"""Triton's kernels under the names that all backends share; see :mod:`l0func.kernels.by_torch`.

They compute in float32, orders 0 and 1; keys are int64. Torch operations do the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from l0func.kernels import by_torch
from l0func.kernels.by_torch import quantile, tail
from l0func.kernels.by_triton import launches
from l0func.kernels.by_triton.contraction_calls import contract
from l0func.kernels.by_triton.moments import masked_moment_grads, masked_moments, moments
from l0func.kernels.by_triton.stream_calls import fold, normals, split, uniforms
from l0func.kernels.formula import Formula

__all__ = [
    "contract",
    "draw",
    "fold",
    "masked_moment_grads",
    "masked_moments",
    "moments",
    "normals",
    "quantile",
    "split",
    "tail",
    "uniforms",
]


def draw(formula: Formula, log_alpha: Tensor, keys: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """See :func:`l0func.kernels.by_torch.draw`."""
    if log_alpha.dtype != torch.float32:
        return by_torch.draw(formula, log_alpha, keys, first)
    p, q = launches.prepared(formula, log_alpha)
    with launches.device_of(p):
        return launches.draw_gates(formula, p, q, keys.contiguous(), first)
