"""Example inputs as a tuple, and a comparison between outputs on them.

Trials, ``unit_groups`` and ``compact`` use these functions.
"""

from __future__ import annotations

from math import isfinite
from typing import Any, cast

import torch
from torch import Tensor

from l0func.internal import tree


def as_inputs(example_inputs: Any) -> tuple[Any, ...]:
    """Positional inputs as a tuple, from a tuple or a single input."""
    if isinstance(example_inputs, tuple):
        return cast("tuple[Any, ...]", example_inputs)
    return (example_inputs,)


def same_output(output: Any, expected: Any, tolerance: float | None = None) -> bool:
    """Whether two outputs have the same shapes and the same numbers, up to rounding.

    Args:
        output: A pytree.
        expected: The pytree that it should equal.
        tolerance: The largest difference, relative to the largest number in a tensor. None is
            1e-8 for float64 and 1e-3 for other types.
    """
    tensors, expected_tensors = _tensors_in(output), _tensors_in(expected)
    if len(tensors) != len(expected_tensors):
        return False
    pairs = zip(tensors, expected_tensors, strict=True)
    return all(_same_tensor(a, b, tolerance) for a, b in pairs)


def first_line(error: Exception) -> str:
    """An error as text: its type and its first line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _tensors_in(value: Any) -> list[Tensor]:
    return [leaf for _, leaf in tree.walk(value) if isinstance(leaf, Tensor)]


def _same_tensor(tensor: Tensor, expected: Tensor, tolerance: float | None) -> bool:
    if tensor.shape != expected.shape:
        return False
    if not expected.numel():
        return True
    largest = float(expected.double().abs().max())
    if not isfinite(largest):
        return torch.allclose(tensor, expected, equal_nan=True)
    relative = tolerance or _default_tolerance(expected.dtype)
    absolute = relative * largest
    return torch.allclose(tensor.double(), expected.double(), rtol=0, atol=absolute)


def _default_tolerance(dtype: torch.dtype) -> float:
    return 1e-8 if dtype == torch.float64 else 1e-3
