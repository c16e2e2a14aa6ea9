"""The compiled kernels of this process, and tensors as the arrays that they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from l0func.kernels.by_numba.binding import kernel
from l0func.kernels.by_numba.numba_names import numpy as np
from l0func.kernels.formula import Formula

_REALS = {torch.float32: np.float32, torch.float64: np.float64}
_known: dict[Any, Callable[..., Any]] = {}


def compiled(template: Any, dtype: torch.dtype, formula: Formula | None) -> Callable[..., Any]:
    """A template's kernel for gates in a dtype and a formula, compiled at its first call."""
    functions = {} if formula is None else formula.functions
    known = (template, dtype, *functions.values())
    if known not in _known:
        tag = "plain" if formula is None else formula.tag
        _known[known] = kernel(template, _REALS[dtype], functions, tag)
    return _known[known]


def settings_of(formula: Formula, dtype: torch.dtype) -> tuple[Any, ...]:
    """A formula's settings as numbers of a dtype."""
    return tuple([_REALS[dtype](setting) for setting in formula.settings])


def array(tensor: Tensor) -> Any:
    """A tensor's values as a contiguous array; the array shares a contiguous tensor's memory."""
    return tensor.detach().contiguous().numpy()


def key_array(keys: Tensor) -> Any:
    """Keys as unsigned words."""
    return array(keys).view(np.uint64)
