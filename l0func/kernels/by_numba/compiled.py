"""The compiled kernels of this process, and tensors as the arrays that they take."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from l0func.internal.untyped import untyped
from l0func.kernels.by_numba.binding import kernel
from l0func.kernels.by_numba.building import BUILDING, built
from l0func.kernels.by_numba.numba_names import numpy as np
from l0func.kernels.formula import Formula

REALS = {torch.float32: np.float32, torch.float64: np.float64}
_ARRAYS = {**REALS, torch.int64: np.int64}
_built: dict[Any, Callable[..., Any]] = {}
# numpy asks the system for large pages from this size on: a large draw waits less for memory.
_LARGE_PAGES = 1 << 22
"""Bytes."""


def compiled(template: Any, dtype: torch.dtype, formula: Formula | None) -> Callable[..., Any]:
    """A template's kernel for gates in a dtype and a formula, compiled at its first call.

    Every call has to give the kernel arguments of the same types.
    """
    functions = {} if formula is None else formula.functions
    known = (template, dtype, *functions.values())
    ready = _built.get(known)
    return _first_call(known, functions, formula) if ready is None else ready


def _first_call(
    known: tuple[Any, ...], functions: dict[str, Any], formula: Formula | None
) -> Callable[..., Any]:
    template, dtype = known[:2]
    tag = "plain" if formula is None else formula.tag

    def make(on_disk: bool) -> Any:
        return kernel(template, REALS[dtype], functions, tag, on_disk)

    def run(*args: Any) -> Any:
        # Threads that come meanwhile wait, and find the kernel.
        with BUILDING:
            if known not in _built:
                _built[known] = built(make, args)
        return _built[known](*args)

    return run


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor on the CPU for a kernel to fill; a context's default device changes nothing."""
    if math.prod(shape) * dtype.itemsize < _LARGE_PAGES:
        return torch.empty(shape, dtype=dtype, device="cpu")
    return untyped.from_numpy(np.empty(shape, _ARRAYS[dtype]))


@cache
def nothing(dtype: torch.dtype) -> Any:
    """An array without entries, for a matrix that is not there."""
    return np.empty((0, 0), REALS[dtype])


def settings_of(formula: Formula, dtype: torch.dtype) -> tuple[Any, ...]:
    """A formula's settings as numbers of a dtype."""
    return tuple([REALS[dtype](setting) for setting in formula.settings])


def array(tensor: Tensor) -> Any:
    """A tensor's values as a contiguous array; the array shares a contiguous tensor's memory."""
    return tensor.detach().contiguous().numpy()


def key_array(keys: Tensor) -> Any:
    """Keys as unsigned words."""
    return keys.contiguous().numpy().view(np.uint64)
