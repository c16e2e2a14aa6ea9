"""Transfer functions: how units pass through one torch operation, one family a file.

After each operation the tracer asks :func:`transfer_for` for its transfer function.
"""

from __future__ import annotations

from typing import Any

import torch

from l0func.tracing.call import operation_name
from l0func.tracing.step import Transfer
from l0func.tracing.transfers import (
    complex_numbers,
    convolutions,
    copies,
    embedding,
    matrix_products,
    moves,
    norms,
    patches,
    pointwise,
    reductions,
    refusal,
    resampling,
    scatters,
)

_FAMILIES = (
    matrix_products,
    convolutions,
    embedding,
    norms,
    resampling,
    patches,
    copies,
    scatters,
    moves,
    complex_numbers,
    reductions,
    pointwise,
)

TRANSFERS: dict[str, Transfer] = {}
"""``{ATen name: transfer function}``; a name without its trailing underscore serves both twins."""

for _family in _FAMILIES:
    TRANSFERS.update(_family.TRANSFERS)


def transfer_for(func: Any) -> Transfer:
    """The transfer function for an ATen operation; for an unknown one, it keeps all units."""
    name = operation_name(func)
    # An operation in place, such as add_, has the transfer function of its twin, add.
    known = TRANSFERS.get(name) or TRANSFERS.get(name.removesuffix("_"))
    if known is not None:
        return known
    if torch.Tag.pointwise in func.tags:
        return pointwise.pointwise
    return moves.moved if func.is_view else refusal.refuse
