"""Fold a constant unit into a layer that reads it.

The unit's columns in the layer's weight become zero, and its contribution moves into the layer's
bias. ``idle`` finds the units to fold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from l0func.spec.rules import Rule
from l0func.tracing.trace import Reader, Trace

RuledSlices = tuple[str, tuple[Rule, ...]]
"""A tensor's path, and the rules for the units' slices in it."""


def folded_slice(
    params: Mapping[str, Tensor], path: str, rule: Rule, unit: Tensor, traces: Sequence[Trace]
) -> dict[str, Tensor] | None:
    """Fold a unit into one reader, if the unit is constant there.

    Args:
        params: Parameters, flat.
        path: The weight that reads the unit.
        rule: The rule for the units' slices in that weight.
        unit: The unit's number, a scalar tensor.
        traces: Traces on several inputs.

    Returns:
        The parameters that change, or None if the constant cannot be folded here.
    """
    weight = params[path]
    numbers, dim = unit_numbers(rule, weight)
    columns = (numbers == unit).nonzero().flatten()
    reader = _only_reader(traces[0], path)
    constant = _constant(traces, path, dim, columns)
    if reader is None or constant is None or not reader.steady:
        return None
    without_unit = weight.index_fill(dim, columns.to(weight.device), 0.0)
    if not bool(constant.any()):
        return {path: without_unit}
    if reader.border or reader.bias is None or _uses_of_bias(reader.bias, traces[0]) != 1:
        return None
    bias = params[reader.bias]
    output = _output_of(weight.movedim(dim, 0)[columns], constant)
    return {path: without_unit, reader.bias: bias + output.to(bias)}


def unit_numbers(rule: Rule, tensor: Tensor) -> tuple[Tensor, int]:
    """The unit's number at every index along the rule's dimension, or -1; and the dimension."""
    dim = int(getattr(rule, "dim", 0)) % tensor.dim()
    return rule.index(tuple(tensor.shape)).flatten(), dim


def _only_reader(trace: Trace, path: str) -> Reader | None:
    """The product in which a weight reads units, if there is exactly one."""
    readers = [reader for reader in trace.readers if reader.path == path]
    return readers[0] if len(readers) == 1 else None


def _uses_of_bias(bias: str, trace: Trace) -> int:
    return sum(reader.bias == bias for reader in trace.readers)


def _constant(traces: Sequence[Trace], path: str, dim: int, columns: Tensor) -> Tensor | None:
    """The value that a weight reads in each column, shape (columns,).

    None if the values differ between rows, places or traces.
    """
    constant: Tensor | None = None
    for trace in traces:
        reader = _only_reader(trace, path)
        seen = None if reader is None else _constant_in(reader, dim, columns)
        if seen is None:
            return None
        if constant is None:
            constant = seen
        elif not _equal(constant, seen):
            return None
    return constant


def _constant_in(reader: Reader, dim: int, columns: Tensor) -> Tensor | None:
    """The value that one product reads in each column; None if a column has several."""
    if reader.dim != dim:
        return None
    places = [(reader.positions == column).nonzero()[0, 0] for column in columns]
    values = reader.values[:, torch.stack(places)]
    first = values[0]
    return first if _equal(values, first.expand_as(values)) else None


def _equal(a: Tensor, b: Tensor) -> bool:
    # A vectorised loop and its remainder loop round differently, in the last few bits.
    few_bits = 8 * torch.finfo(a.dtype).eps
    return torch.allclose(a, b, rtol=few_bits, atol=0.0)


def _output_of(columns: Tensor, constant: Tensor) -> Tensor:
    """The contribution of constants to a product's output.

    Args:
        columns: The weights that read them, shape (columns, outputs, *kernel).
        constant: The constants, shape (columns,).
    """
    weights = columns.flatten(2).sum(-1) if columns.dim() > 2 else columns
    return (weights * constant[:, None]).sum(0)
