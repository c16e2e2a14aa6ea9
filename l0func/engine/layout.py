"""How the gates act on each weight when every row has its own mask.

Most gates either scale along one dimension or sit on single entries. A :class:`Layout` sorts them
so, and the weight then needs no full mask for each row. :class:`~l0func.engine.stand_ins.StandIns`
sorts a spec's gates once, before any call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from l0func.internal.kinds import real_dtype
from l0func.spec.plan import Binding, GateSpec, ParameterPlan
from l0func.spec.rules import Rule, axes, axis, blocks, element, tiles, whole


class Layout(NamedTuple):
    """The gates on one parameter with rank 2 or more, sorted by how they act on it."""

    parameter: ParameterPlan
    along_dim: tuple[tuple[int, Binding], ...]
    """Gates that vary along one dimension only, each with that dimension."""
    per_entry: Binding | None
    """Gates on single entries, or on all entries behind some leading dimensions."""

    def scales(self, values: Mapping[str, Tensor]) -> tuple[Tensor | None, ...]:
        """For each dimension the product over the gates along it, or None.

        Args:
            values: ``{gate name: z}``.
        """
        shape, dtype = self.parameter.shape, real_dtype(self.parameter.dtype)
        found: list[Tensor | None] = [None] * len(shape)
        for dim, binding in self.along_dim:
            spread = binding.rule.spread(values[binding.gate], shape).reshape(-1)
            factor = spread.expand(shape[dim]).to(dtype)
            known = found[dim]
            found[dim] = factor if known is None else known * factor
        return tuple(found)


def layouts(spec: GateSpec) -> dict[str, Layout]:
    """``{path: layout}`` for each parameter that needs no mask in its full shape."""
    possible: dict[str, Layout] = {}
    for parameter in spec.parameters:
        layout = _layout(parameter)
        if layout is not None:
            possible[parameter.path] = layout
    # Entry gates are drawn inside the operations. A gate that also acts elsewhere is drawn before
    # the call, so its parameters are multiplied by full masks.
    needed = _gates_needed_before(spec, possible)
    kept: dict[str, Layout] = {}
    for path, layout in possible.items():
        binding = layout.per_entry
        if binding is None or binding.gate not in needed:
            kept[path] = layout
    return kept


def _gates_needed_before(spec: GateSpec, possible: Mapping[str, Layout]) -> set[str]:
    """The gates with values needed before the call: they act anywhere but as entry gates."""
    needed: set[str] = set()
    for parameter in spec.parameters:
        layout = possible.get(parameter.path)
        per_entry = None if layout is None else layout.per_entry
        others = [b for b in _multipliers(parameter) if b is not per_entry]
        needed.update(binding.gate for binding in others)
    return needed


def _layout(parameter: ParameterPlan) -> Layout | None:
    rank = len(parameter.shape)
    bindings = _multipliers(parameter)
    # A vector's mask is as small as an activation, so it need not be avoided. The kernels for
    # entry gates compute with real numbers.
    if rank < 2 or not bindings or _repeats_a_gate(bindings):
        return None
    along_dim: list[tuple[int, Binding]] = []
    per_entry: list[Binding] = []
    for binding in bindings:
        dim = _only_dim(binding.rule, rank)
        if dim is not None:
            along_dim.append((dim, binding))
        elif _is_per_entry(binding.rule, rank) and not parameter.dtype.is_complex:
            per_entry.append(binding)
        else:
            return None
    if len(per_entry) > 1:
        return None
    entry_binding = per_entry[0] if per_entry else None
    return Layout(parameter, tuple(along_dim), entry_binding)


def _multipliers(parameter: ParameterPlan) -> list[Binding]:
    return [binding for binding in parameter.bindings if binding.multiplies]


def _repeats_a_gate(bindings: list[Binding]) -> bool:
    """Whether a gate is on the parameter twice. Scales would square it; a mask counts it once."""
    gates = {binding.gate for binding in bindings}
    return len(gates) < len(bindings)


def _only_dim(rule: Rule, rank: int) -> int | None:
    """The only dimension along which a rule's gates vary, or None; 0 for a single gate."""
    if isinstance(rule, whole):
        return 0
    if isinstance(rule, axis | blocks | tiles):
        return rule.dim % rank
    if isinstance(rule, axes) and len(rule.dims) == 1:
        return rule.dims[0] % rank
    return None


def _is_per_entry(rule: Rule, rank: int) -> bool:
    """Whether a rule gates every entry, or every index into the leading dimensions."""
    if isinstance(rule, axes):
        dims = sorted(dim % rank for dim in rule.dims)
        return dims == list(range(len(dims)))
    return isinstance(rule, element)
