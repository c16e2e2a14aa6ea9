"""Recurrent layers on gated parameters: as a loop over time.

The input projection stays gated, and the recurrent weight is laid out once for all steps. A packed
sequence runs on the product of weight and mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from l0func.pure.written_out.table import CELLS, NETWORKS

HANDLERS: dict[Any, Callable[..., Any]] = {
    func: replacement.run for func, replacement in {**NETWORKS, **CELLS}.items()
}
