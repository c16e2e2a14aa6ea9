"""numba's kernels under the names that all backends share; see :mod:`l0func.kernels.by_torch`."""

from __future__ import annotations

from l0func.kernels.by_numba.gate_calls import draw

__all__ = ["draw"]
