"""The words of the vocabulary that are the same in float32 and float64."""

from __future__ import annotations

from typing import Any

from l0func.kernels.by_numba.bits import select
from l0func.kernels.by_numba.numba_names import numpy as np
from l0func.kernels.vocabulary import log


def log1p(x: Any) -> Any:
    """log(1 + x), accurate for small x."""
    total = 1.0 + x
    # Exact by Sterbenz where it matters; the quotient restores the bits that the sum lost.
    lost = total - 1.0
    corrected = log(total) * (x / where(lost == 0.0, 1.0, lost))
    return where(lost == 0.0, x, where(total > 3.0e38, log(total), corrected))


def sqrt(x: Any) -> Any:
    """The square root."""
    return np.sqrt(x)


def where(condition: Any, yes: Any, no: Any) -> Any:
    """``yes`` where the condition holds, else ``no``."""
    # An instruction, not a branch: beside a branch no loop becomes vectors.
    return select(condition, yes, no)


def clip(x: Any, low: Any, high: Any) -> Any:
    """``x`` limited to [low, high]; a NaN stays."""
    return where(x <= low, low, where(x >= high, high, x))
