"""How each parameter's gates are put on it when every row has its own: by dimension, by entry, or
multiplied out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from l0func.spec.plan import Binding, GateSpec, ParameterPlan
from l0func.spec.rules import axes, axis, blocks, element, tiles, whole


class Layout(NamedTuple):
    """The gates on one parameter of rank 2 or more."""

    parameter: ParameterPlan
    along_dim: tuple[tuple[int, Binding], ...]
    """Gates that vary along one dimension only, with the dimension."""
    per_entry: Binding | None
    """Gates of single entries, or of all entries behind some leading dimensions."""

    def scales(self, values: Mapping[str, Tensor]) -> tuple[Tensor | None, ...]:
        """For each dimension the factors along it, or None."""
        p = self.parameter
        found: list[Tensor | None] = [None] * len(p.shape)
        for dim, binding in self.along_dim:
            factor = (
                binding.rule.spread(values[binding.gate], p.shape)
                .reshape(-1)
                .expand(p.shape[dim])
                .to(p.dtype)
            )
            known = found[dim]
            found[dim] = factor if known is None else known * factor
        return tuple(found)


def layouts(spec: GateSpec) -> tuple[dict[str, Layout], frozenset[str]]:
    """The parameters whose masks need not be laid out, and the gates whose draws their operations
    make themselves.
    """
    found = {p.path: layout for p in spec.parameters if (layout := _layout(p)) is not None}
    per_entry = {
        layout.per_entry.gate for layout in found.values() if layout.per_entry is not None
    }
    # A gate that something else needs the draw of is drawn with the others.
    elsewhere = {
        b.gate
        for p in spec.parameters
        for b in p.bindings
        if b.multiplies and not (p.path in found and b is found[p.path].per_entry)
    }
    shared = per_entry & elsewhere
    kept = {
        path: layout
        for path, layout in found.items()
        if layout.per_entry is None or layout.per_entry.gate not in shared
    }
    return kept, frozenset(per_entry - shared)


def _layout(p: ParameterPlan) -> Layout | None:
    bindings = [b for b in p.bindings if b.multiplies]
    gates = [b.gate for b in bindings]
    if len(p.shape) < 2 or not bindings or len(set(gates)) < len(gates):
        # Of a vector the mask is as small as an activation; a gate on an entry twice counts once.
        return None
    along_dim: list[tuple[int, Binding]] = []
    per_entry: list[Binding] = []
    for binding in bindings:
        rule = binding.rule
        if isinstance(rule, axis | blocks | tiles):
            along_dim.append((rule.dim % len(p.shape), binding))
        elif isinstance(rule, whole):
            along_dim.append((0, binding))
        elif isinstance(rule, axes) and len(rule.dims) == 1:
            along_dim.append((rule.dims[0] % len(p.shape), binding))
        elif isinstance(rule, element) or (
            isinstance(rule, axes) and _leading(rule, len(p.shape))
        ):
            per_entry.append(binding)
        else:
            return None
    return (
        Layout(p, tuple(along_dim), per_entry[0] if per_entry else None)
        if len(per_entry) < 2
        else None
    )


def _leading(rule: axes, rank: int) -> bool:
    return sorted(dim % rank for dim in rule.dims) == list(range(len(rule.dims)))
