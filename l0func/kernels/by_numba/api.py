"""numba's kernels under the names that all backends share; see :mod:`l0func.kernels.by_torch`."""

from __future__ import annotations

from l0func.kernels.by_numba.contraction_calls import contract
from l0func.kernels.by_numba.gate_calls import draw, quantile
from l0func.kernels.by_numba.moment_calls import (
    masked_moment_grads,
    masked_moments,
    moments,
    tail,
)
from l0func.kernels.by_numba.stream_calls import fold, normals, split, uniforms

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
