"""The backend for some tensors: numba's kernels where they can run, torch operations elsewhere."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from torch import Tensor

from l0func.kernels import by_torch, choice


def kernels_for(*tensors: Tensor) -> Any:
    """The module whose functions run on these tensors; see :mod:`~l0func.kernels.by_torch`."""
    if choice.chosen() == "eager" or not all(_is_plain(t) for t in tensors):
        return by_torch
    return numba_kernels() or by_torch


def _is_plain(tensor: Tensor) -> bool:
    """Whether the tensor has values in this process's memory: no subclass, and on the CPU."""
    return type(tensor) is Tensor and tensor.device.type == "cpu"


@cache
def numba_kernels() -> Any:
    """The module with numba's kernels, or None where numba is absent."""
    try:
        return import_module("l0func.kernels.by_numba.api")
    except ImportError:
        return None
