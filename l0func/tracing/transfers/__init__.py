"""Transfer functions: how units pass through one torch operation, one family a file."""

from __future__ import annotations

from typing import Any

import torch

from l0func.tracing.call import operation_name
from l0func.tracing.step import Transfer
from l0func.tracing.transfers import (
    convolutions,
    copies,
    embedding,
    matrix_products,
    moves,
    norms,
    pointwise,
    reductions,
    refusal,
    resampling,
)

TRANSFERS: dict[str, Transfer] = {
    **matrix_products.TRANSFERS,
    **convolutions.TRANSFERS,
    **embedding.TRANSFERS,
    **norms.TRANSFERS,
    **resampling.TRANSFERS,
    **copies.TRANSFERS,
    **moves.TRANSFERS,
    **reductions.TRANSFERS,
    **pointwise.TRANSFERS,
}
"""The transfer function of every ATen operation with one of its own, by name."""


def transfer_for(func: Any) -> Transfer:
    """The transfer function of an ATen operation; without one, its units are kept."""
    name = operation_name(func)
    # An operation in place follows the same units as its twin without the underscore.
    known = TRANSFERS.get(name) or TRANSFERS.get(name.removesuffix("_"))
    if known is not None:
        return known
    if torch.Tag.pointwise in func.tags:
        return pointwise.pointwise
    return moves.moved if func.is_view else refusal.refuse
