"""Checks of examples, and a comparison between the outputs of two networks on them."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from l0func.internal.outputs import visible_leaves, visible_tensors
from l0func.pure.inputs import Inputs


def same_output(output: Any, expected: Any, tolerance: float | None = None) -> bool:
    """Whether two outputs have the same shapes and the same numbers, up to rounding.

    Args:
        output: Containers and objects with tensors.
        expected: The output that it should equal.
        tolerance: The largest difference, relative to the largest number in a tensor. None is
            1e-8 for float64 and 1e-3 for other types.

    Raises:
        ValueError: Neither output holds a tensor.
    """
    if _count_floats(output) != _count_floats(expected):
        return False
    tensors, expected_tensors = list(_tensors_in(output)), list(_tensors_in(expected))
    if not tensors and not expected_tensors:
        raise ValueError(
            "The outputs on the examples hold no tensor to compare. Return the tensors that "
            "forward computes."
        )
    if len(tensors) != len(expected_tensors):
        return False
    pairs = zip(tensors, expected_tensors, strict=True)
    return all(_same_tensor(a, b, tolerance) for a, b in pairs)


def copied_numbers(output: Any) -> list[Any]:
    """The tensors in an output, copied, and its floats; for :func:`same_output` in its place.

    A later call may write into the output's own tensors, since a module may return a parameter.
    """
    floats = [leaf for _, leaf in visible_leaves(output) if isinstance(leaf, float)]
    return [*(tensor.clone() for tensor in _tensors_in(output)), *floats]


def in_float64(tensor: Tensor) -> Tensor:
    """The tensor, in float64 if it holds floats."""
    return tensor.double() if tensor.is_floating_point() else tensor


def check_rows(inputs: Inputs) -> None:
    """Refuse examples without any numbers: every network is equal on them.

    Raises:
        ValueError: All tensors among them are empty.
    """
    tensors = visible_tensors((inputs.args, inputs.kwargs))
    if tensors and all(not tensor.numel() for tensor in tensors):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise ValueError(
            f"The examples hold no numbers: their shapes are {shapes}. Give two rows or more."
        )


def first_line(error: Exception) -> str:
    """An error as text: its type and its first line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _tensors_in(output: Any) -> Iterator[Tensor]:
    """The tensors in an output, and numpy's arrays and numbers as tensors."""
    for _, leaf in visible_leaves(output):
        if isinstance(leaf, Tensor):
            yield leaf
        elif _is_array(leaf) and leaf.dtype.kind in "biufc":
            yield torch.as_tensor(leaf)


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array_interface__") and not isinstance(value, type)


def _count_floats(output: Any) -> int:
    # Not compared, because a time of day is no difference; a list of a layer's numbers that became
    # shorter is one.
    return sum(isinstance(leaf, float) for _, leaf in visible_leaves(output))


def _same_tensor(tensor: Tensor, expected: Tensor, tolerance: float | None) -> bool:
    if tensor.shape != expected.shape or tensor.dtype != expected.dtype:
        return False
    tensor, expected = _plain(tensor), _plain(expected)
    if not expected.numel():
        return True
    largest = float(expected.double().abs().max())
    if not isfinite(largest):
        return torch.allclose(tensor, expected, equal_nan=True)
    relative = tolerance or _default_tolerance(expected.dtype)
    absolute = relative * largest
    return torch.allclose(tensor.double(), expected.double(), rtol=0, atol=absolute)


def _plain(tensor: Tensor) -> Tensor:
    """A tensor as real numbers in memory."""
    dense = tensor if tensor.layout == torch.strided else tensor.to_dense()
    return torch.view_as_real(dense.resolve_conj()) if dense.is_complex() else dense


def _default_tolerance(dtype: torch.dtype) -> float:
    return 1e-8 if dtype == torch.float64 else 1e-3
