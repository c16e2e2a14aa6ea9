"""Draws and moments of gates: the functions of :mod:`l0func.kernels.by_torch`, in machine code."""

from __future__ import annotations

import torch
from torch import Tensor

from l0func.kernels.by_numba import gates
from l0func.kernels.by_numba.compiled import array, compiled, empty, key_array, settings_of
from l0func.kernels.formula import Formula


def draw(formula: Formula, log_alpha: Tensor, keys: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """See :func:`l0func.kernels.by_torch.draw`."""
    shape = keys.shape[0], log_alpha.shape[-1]
    z = empty(shape, log_alpha.dtype)
    slopes = torch.empty_like(z)
    run = compiled(gates.draw_gates, log_alpha.dtype, formula)
    settings = settings_of(formula, log_alpha.dtype)
    run(key_array(keys), first, array(log_alpha), settings, array(z), array(slopes))
    return z, slopes


def quantile(formula: Formula, u: Tensor, log_alpha: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`l0func.kernels.by_torch.quantile`."""
    z = empty(u.shape, log_alpha.dtype)
    slopes = torch.empty_like(z)
    run = compiled(gates.gates_at, log_alpha.dtype, formula)
    settings = settings_of(formula, log_alpha.dtype)
    run(array(u), array(log_alpha), settings, array(z), array(slopes))
    return z, slopes


def prepared(formula: Formula, log_alpha: Tensor) -> tuple[Tensor, Tensor]:
    """``formula.prepare`` of all locations, contiguous and shaped like them."""
    shape = log_alpha.shape
    p, q = empty(shape, log_alpha.dtype), empty(shape, log_alpha.dtype)
    run = compiled(gates.prepare_gates, log_alpha.dtype, formula)
    settings = settings_of(formula, log_alpha.dtype)
    flat = array(log_alpha).reshape(-1)
    run(flat, settings, array(p).reshape(-1), array(q).reshape(-1))
    return p, q
