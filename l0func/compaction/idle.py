"""Units that no longer do anything: those that nothing reads, and those that say the same whatever
the input.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from l0func.compaction.units import UnitGroups, groups_in
from l0func.gates.checks import Gates
from l0func.internal import tree
from l0func.pure.functional import Functional
from l0func.spec.build import gate_spec
from l0func.spec.plan import GateSpec, ParameterPlan
from l0func.spec.rules import Rule
from l0func.tracing.follow import follow
from l0func.tracing.trace import Reader, Trace


def fold_constants(
    function: Functional, inputs: tuple[Any, ...]
) -> tuple[Functional, GateSpec | None, Gates]:
    """Add what constant units say to the biases of what reads them, so that nothing reads them any
    more.

    A unit is constant if every matrix or kernel that makes it is zero for it, if what follows
    makes constants of constants whatever the input and its size, and if its readers see one value
    in all rows and places, on the examples and on noisy copies of them. A constant is folded where
    each of its readers has a bias and is used once; before a padded convolution only zero is,
    since folding would miss the border.

    Args:
        function: A pruned network.
        inputs: Examples.

    Returns:
        The function with other parameters; a spec of its units, or None if it has none that can
        go; and for each of its groups which units are still read, bool.
    """
    fn, params, buffers = function
    trace = follow(fn, params, buffers, inputs)
    groups = groups_in(function, inputs, trace)
    if not groups:
        return function, None, {}
    spec = gate_spec(params, groups=groups, buffers=buffers)
    by_path = {p.path: p for p in spec.parameters}
    changed = True
    while changed:
        seen = [trace, follow(fn, params, buffers, _noisy(inputs))]
        params, changed = _folded(params, groups, by_path, seen)
        trace = follow(fn, params, buffers, inputs)
    return (
        Functional(fn, params, buffers),
        spec,
        {name: _read(params, groups, name, by_path) for name in groups},
    )


def _noisy(inputs: tuple[Any, ...]) -> Any:
    def changed(t: Tensor) -> Tensor:
        spread = (
            torch.linspace(-1, 1, max(t.numel(), 1), device=t.device).reshape(t.shape)
            if t.numel()
            else t
        )
        return t + (1 + t.abs()) * spread.to(t.dtype) if t.is_floating_point() else t

    return tree.map_tensors(changed, inputs)


def _read(
    params: Mapping[str, Tensor],
    groups: UnitGroups,
    name: str,
    by_path: Mapping[str, ParameterPlan],
) -> Tensor:
    """For each unit of a group whether any slice that reads it is not zero."""
    count = groups.sizes[name]
    if name in groups.normed:
        # The norm reads them.
        return torch.ones(count, dtype=torch.bool)
    return _any_nonzero(params, groups[name].multiplies, by_path, count)


def _any_nonzero(
    params: Mapping[str, Tensor],
    slices: Iterable[tuple[str, tuple[Rule, ...]]],
    by_path: Mapping[str, ParameterPlan],
    count: int,
) -> Tensor:
    found = torch.zeros(count, dtype=torch.bool)
    for path, rules in slices:
        for rule in rules if path in by_path else ():
            number, dim = _unit_numbers(rule, by_path[path])
            nonzero = (
                (params[path] != 0).movedim(dim, 0).flatten(1).any(1)
                if params[path].dim() > 1
                else params[path] != 0
            )
            found[number[(number >= 0) & nonzero.cpu()]] = True
    return found


def _unit_numbers(rule: Rule, p: ParameterPlan) -> tuple[Tensor, int]:
    """For every index along the rule's dimension the number of its unit, or -1."""
    dim = int(getattr(rule, "dim", 0)) % len(p.shape)
    return rule.index(p.shape).flatten(), dim


def _folded(
    params: Mapping[str, Tensor],
    groups: UnitGroups,
    by_path: Mapping[str, ParameterPlan],
    seen: list[Trace],
) -> tuple[dict[str, Tensor], bool]:
    result, changed = dict(params), False
    for name, group in groups.items():
        if name in groups.normed:
            continue
        made = (
            (path, rules)
            for path, rules in group.owns
            if path in by_path and len(by_path[path].shape) > 1
        )
        silent = ~_any_nonzero(params, made, by_path, groups.sizes[name])
        candidates = silent & _read(params, groups, name, by_path)
        for unit in candidates.nonzero().flatten():
            folds = [
                _fold_reader(result, path, rule, by_path[path], unit, seen)
                for path, rules in group.multiplies
                for rule in rules
            ]
            if all(fold is not None for fold in folds):
                for path, tensor in (
                    item for fold in folds if fold is not None for item in fold.items()
                ):
                    result[path] = tensor
                changed = True
    return result, changed


def _fold_reader(
    params: Mapping[str, Tensor],
    path: str,
    rule: Rule,
    p: ParameterPlan,
    unit: Tensor,
    seen: list[Trace],
) -> dict[str, Tensor] | None:
    """The parameters that change when one reader of a constant unit takes what it says into its
    bias; None if it cannot.
    """
    readers = [[r for r in trace.readers if r.path == path] for trace in seen]
    if any(len(of) != 1 for of in readers):
        return None
    numbers, dim = _unit_numbers(rule, p)
    columns = (numbers == unit).nonzero().flatten()
    said = [_constants(of[0], dim, columns) for of in readers]
    first, second = said
    reader = readers[0][0]
    if not reader.steady or first is None or second is None or not _same(first, second):
        return None
    weight = (
        params[path].movedim(dim, 0)[columns].flatten(2)
        if p.shape[2:]
        else params[path].movedim(dim, 0)[columns][..., None]
    )
    extra = (weight.sum(-1) * first[:, None]).sum(0)
    silent = params[path].index_fill(dim, columns.to(params[path].device), 0.0)
    if not bool(first.any()):
        return {path: silent}
    if (
        reader.border
        or reader.bias is None
        or sum(r.bias == reader.bias for r in seen[0].readers) != 1
    ):
        return None
    return {path: silent, reader.bias: params[reader.bias] + extra.to(params[reader.bias])}


def _constants(reader: Reader, dim: int, columns: Tensor) -> Tensor | None:
    """The one value that a reader sees in each of these columns, or None if it sees several."""
    if reader.dim != dim:
        return None
    places = torch.stack([(reader.positions == column).nonzero()[0, 0] for column in columns])
    values = reader.values[:, places]
    first = values[0]
    return first if _same(values, first.expand_as(values)) else None


def _same(a: Tensor, b: Tensor) -> bool:
    # A few units in the last place: vectorised loops and their remainders round differently.
    return torch.allclose(a, b, rtol=8 * torch.finfo(a.dtype).eps, atol=0.0)
