"""numba's kernels under the names that all backends share; see :mod:`l0func.kernels.by_torch`."""

from __future__ import annotations

from l0func.kernels.by_numba.contraction_calls import contract
from l0func.kernels.by_numba.gate_calls import draw, quantile
from l0func.kernels.by_numba.stream_calls import fold, normals, split, uniforms
from l0func.kernels.by_torch import moments, tail

__all__ = [
    "contract",
    "draw",
    "fold",
    "moments",
    "normals",
    "quantile",
    "split",
    "tail",
    "uniforms",
]
