"""Idle units: those that nothing reads, and those that output a constant whatever the input.

``compact`` removes them from a pruned network when it is given example inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from l0func.compaction.few_rows import few_rows
from l0func.compaction.fold import RuledSlices, folded_slice, unit_numbers
from l0func.compaction.units import UnitGroups, groups_in
from l0func.internal.outputs import copied
from l0func.pure.functional import Functional
from l0func.pure.inputs import Inputs
from l0func.spec.build import gate_spec
from l0func.spec.plan import GateSpec
from l0func.tracing.follow import follow
from l0func.tracing.trace import Trace


class FoldedNetwork(NamedTuple):
    """A network after its constants moved into biases.

    Attributes:
        function: The function with its new parameters.
        spec: A gate spec with groups of its units.
        read: For each group a bool vector: True for the units that are still read.
    """

    function: Functional
    spec: GateSpec
    read: dict[str, Tensor]


def fold_constants(function: Functional, inputs: Inputs) -> FoldedNetwork | None:
    """Move the output of every constant unit into its readers' biases.

    Afterwards nothing reads these units any more. A unit is constant under three conditions: every
    matrix or kernel that makes it is zero for it; the operations after that turn constants into
    constants, whatever the input and its size; and its readers see one value in all rows and
    places, on the examples and on noisy copies of them.

    A constant is folded if each reader has a bias that is used once. Before a padded
    convolution only a zero is folded: the border would not see any other constant.

    Args:
        function: A pruned network.
        inputs: Example inputs.

    Returns:
        The folded network, or None if none of its units can be removed.
    """
    fn, params, buffers = function
    trace = follow(fn, params, buffers, inputs)
    groups = groups_in(function, few_rows(function, inputs), trace)
    if not groups:
        return None
    spec = gate_spec(params, groups=groups, buffers=buffers)
    # A trace takes as long as many calls: none is made where no unit can be constant.
    while any(bool(_constant_units(params, groups, name).any()) for name in groups):
        noisy_trace = follow(fn, params, buffers, _noisy(inputs))
        params, changed = _folded_once(params, groups, [trace, noisy_trace])
        if not changed:
            break
        # A folded constant may make another unit constant.
        trace = follow(fn, params, buffers, inputs)
    read = {name: _read_units(params, groups, name) for name in groups}
    return FoldedNetwork(Functional(fn, params, buffers), spec, read)


def _noisy(inputs: Inputs) -> Inputs:
    """Inputs with every number changed; integers stay."""

    def changed(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or not tensor.numel():
            return tensor
        ramp = torch.linspace(-1, 1, tensor.numel(), device=tensor.device)
        noise = ramp.reshape(tensor.shape).to(tensor.dtype)
        return tensor + (1 + tensor.abs()) * noise

    return copied(changed, inputs)


def _folded_once(
    params: Mapping[str, Tensor], groups: UnitGroups, traces: list[Trace]
) -> tuple[dict[str, Tensor], bool]:
    """Fold every unit that is constant now.

    Returns:
        The parameters; and whether any of them changed.
    """
    result, changed = dict(params), False
    for name in groups:
        for unit in _constant_units(params, groups, name).nonzero().flatten():
            folded = _folded_unit(result, groups[name].multiplies, unit, traces)
            if folded is not None:
                result, changed = folded, True
    return result, changed


def _constant_units(params: Mapping[str, Tensor], groups: UnitGroups, name: str) -> Tensor:
    """A bool vector over a group's units: True for those that are read, and made by nothing."""
    read = _read_units(params, groups, name)
    if name in groups.normed:
        return torch.zeros_like(read)
    return read & ~_made_units(params, groups, name)


def _folded_unit(
    params: dict[str, Tensor], readers: Iterable[RuledSlices], unit: Tensor, traces: list[Trace]
) -> dict[str, Tensor] | None:
    """The parameters with one unit folded into all its readers; None if one cannot take it."""
    result = dict(params)
    for path, rules in readers:
        for rule in rules:
            changed = folded_slice(result, path, rule, unit, traces)
            if changed is None:
                return None
            result |= changed
    return result


def _read_units(params: Mapping[str, Tensor], groups: UnitGroups, name: str) -> Tensor:
    """A bool vector over a group's units: True where a slice that reads the unit is not zero."""
    size = groups.sizes[name]
    if name in groups.normed:
        # The norm reads them.
        return torch.ones(size, dtype=torch.bool, device="cpu")
    return _units_with_weights(params, groups[name].multiplies, size)


def _made_units(params: Mapping[str, Tensor], groups: UnitGroups, name: str) -> Tensor:
    """A bool vector over a group's units: True where a matrix makes the unit with nonzero weights.

    A convolution's kernel counts as a matrix; a bias does not.
    """
    matrices: list[RuledSlices] = []
    for path, rules in groups[name].owns:
        if path in params and params[path].dim() > 1:
            matrices.append((path, rules))
    return _units_with_weights(params, matrices, groups.sizes[name])


def _units_with_weights(
    params: Mapping[str, Tensor], slices: Iterable[RuledSlices], size: int
) -> Tensor:
    """A bool vector over units: True where any slice has an entry other than zero.

    Buffers are ignored.
    """
    found = torch.zeros(size, dtype=torch.bool, device="cpu")
    for path, rules in slices:
        if path not in params:
            continue
        for rule in rules:
            numbers, dim = unit_numbers(rule, params[path])
            nonzero = _nonzero_along(params[path], dim).cpu()
            found[numbers[(numbers >= 0) & nonzero]] = True
    return found


def _nonzero_along(tensor: Tensor, dim: int) -> Tensor:
    """A bool vector along a dimension: True where the slice is not all zero."""
    nonzero = tensor != 0
    if tensor.dim() == 1:
        return nonzero
    return nonzero.movedim(dim, 0).flatten(1).any(1)
