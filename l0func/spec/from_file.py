"""A gate spec from text: every value is checked, and the whole as ``gate_spec`` checks its own.

The text may come from a damaged or a hostile file. Names in it are looked up in tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from l0func import distributions
from l0func.internal import names
from l0func.internal.strict_json import parse, shown
from l0func.spec.bindings import Bound, check_bound, check_multiplier, gate_shapes
from l0func.spec.json_values import (
    dtype_of,
    fields_of,
    flag_of,
    list_of,
    shape_of,
    text_of,
)
from l0func.spec.parts import Binding, GateVector, ParameterPlan
from l0func.spec.rule_records import rule_from_dict
from l0func.spec.rules import Rule

Item = TypeVar("Item")

_GATE_FIELDS = ("name", "shape", "dtype", "kind")
_GATE_DTYPES = (torch.float32, torch.float64)

# torch warns about tensors with these dtypes; another takes their place in the checks.
_IN_CHECKS = {
    torch.complex32: torch.complex64,
    torch.qint8: torch.int8,
    torch.qint32: torch.int32,
    torch.quint8: torch.uint8,
    torch.quint4x2: torch.uint8,
    torch.quint2x4: torch.uint8,
}


class SpecParts(NamedTuple):
    """What a gate spec consists of."""

    gates: tuple[GateVector, ...]
    parameters: tuple[ParameterPlan, ...]
    buffers: tuple[ParameterPlan, ...]
    attrs: tuple[tuple[str, str], ...]


def spec_parts(text: str | bytes, /) -> SpecParts:
    """The parts of the spec that ``GateSpec.to_json`` wrote.

    Args:
        text: JSON.

    Returns:
        The parts; together they are what ``gate_spec`` could have built.

    Raises:
        ValueError: The text is no spec; a value in it has a wrong type; a rule, a distribution or
            a gate is unknown; a name is there twice; a binding does not fit.
    """
    record = _document(text)
    gates = _each(_gate, record["gates"], "gates")
    parameters = _each(_plan, record["parameters"], "parameters")
    buffers = _each(_plan, record["buffers"], "buffers")
    attrs = _each(_attrs, record["attrs"], "attrs")
    parts = SpecParts(gates, parameters, buffers, attrs)
    _check_names(parts)
    _check_bindings(parts)
    return parts


def _document(text: str | bytes) -> dict[str, Any]:
    try:
        return fields_of(parse(text), "the document", SpecParts._fields)
    except ValueError as error:
        raise ValueError(
            f"A spec's text comes from GateSpec.to_json; got {shown(text[:60])}: {error}"
        ) from None


def _each(read: Callable[[Any, str], Item], value: Any, where: str) -> tuple[Item, ...]:
    """The items of a list, each read with its place in the document."""
    items = enumerate(list_of(value, where))
    return tuple(read(item, f"{where}[{i}]") for i, item in items)


def _gate(value: Any, where: str) -> GateVector:
    # The distribution's own fields are checked by its class.
    settings = fields_of(value, where, _GATE_FIELDS, others=True)
    name = text_of(settings.pop("name"), f"{where}.name")
    shape = shape_of(settings.pop("shape"), f"{where}.shape")
    dtype = dtype_of(settings.pop("dtype"), f"{where}.dtype")
    if dtype not in _GATE_DTYPES:
        raise ValueError(f"{where}.dtype is float32 or float64; got {dtype}.")
    try:
        distribution = distributions.from_dict(settings)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return GateVector(name, shape, distribution, dtype)


def _plan(value: Any, where: str) -> ParameterPlan:
    record = fields_of(value, where, ("path", "shape", "dtype", "bindings"))
    path = text_of(record["path"], f"{where}.path")
    shape = shape_of(record["shape"], f"{where}.shape")
    dtype = dtype_of(record["dtype"], f"{where}.dtype")
    bindings = _each(_binding, record["bindings"], f"{where}.bindings")
    return ParameterPlan(path, shape, dtype, bindings)


def _binding(value: Any, where: str) -> Binding:
    # The rule's own fields are checked by its class.
    settings = fields_of(value, where, ("gate", "multiplies", "rule"), others=True)
    gate = text_of(settings.pop("gate"), f"{where}.gate")
    multiplies = flag_of(settings.pop("multiplies"), f"{where}.multiplies")
    return Binding(gate, _rule(settings, where), multiplies)


def _rule(settings: Mapping[str, Any], where: str) -> Rule:
    try:
        return rule_from_dict(settings)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _attrs(value: Any, where: str) -> tuple[str, str]:
    pair = list_of(value, where)
    if len(pair) != 2:
        raise ValueError(f"{where} is a pair of a group and its attrs; got {shown(pair)}.")
    group, text = text_of(pair[0], f"{where}[0]"), text_of(pair[1], f"{where}[1]")
    try:
        is_record = isinstance(parse(text), dict)
    except ValueError as error:
        raise ValueError(f"{where}[1] is JSON: {error}") from None
    if not is_record:
        raise ValueError(f"{where}[1] is the JSON of a record; got {shown(text)}.")
    return group, text


def _check_names(parts: SpecParts) -> None:
    """Refuse names that are there twice, no parameters, and attrs of an unknown group."""
    gates = [gate.name for gate in parts.gates]
    _check_once(gates, "gates", "Two sets of gates have the name")
    _check_once([p.path for p in parts.parameters], "parameters", "Two parameters have the path")
    _check_once([p.path for p in parts.buffers], "buffers", "Two buffers have the path")
    groups = [group for group, _ in parts.attrs]
    _check_once(groups, "attrs", "Two groups have the name")
    if not parts.parameters:
        raise ValueError("parameters is empty; a spec has a plan for each parameter.")
    known = set(gates)
    for group in groups:
        if group not in known:
            near = names.closest(group[:80], gates)
            raise ValueError(f"attrs names the group {shown(group)}, without gates{near}.")


def _check_once(found: Iterable[str], where: str, rule: str) -> None:
    seen: set[str] = set()
    for name in found:
        if name in seen:
            raise ValueError(f"{where}: {rule} {shown(name)}.")
        seen.add(name)


def _check_bindings(parts: SpecParts) -> None:
    """Check that every binding names a gate and fits its tensor, as ``gate_spec`` does."""
    known = {gate.name: gate for gate in parts.gates}
    tensors: dict[str, Tensor] = {}
    bound: list[Bound] = []
    for plan in (*parts.parameters, *_own_buffers(parts)):
        dtype = _IN_CHECKS.get(plan.dtype, plan.dtype)
        tensors[plan.path] = torch.empty(plan.shape, dtype=dtype, device="meta")
        bound += [Bound(plan.path, binding) for binding in plan.bindings]
    for entry in bound:
        if entry.binding.gate not in known:
            near = names.closest(entry.binding.gate[:80], known)
            raise ValueError(f"{entry.path!r} names the gate {shown(entry.binding.gate)}{near}.")
        if entry.binding.multiplies:
            check_multiplier(entry.path, entry.binding.rule)
    check_bound(bound, tensors)
    _check_gate_shapes(parts.gates, gate_shapes(bound, tensors))
    _check_multiplied(parts)


def _own_buffers(parts: SpecParts) -> list[ParameterPlan]:
    """The buffers that are no parameters too; both kinds of one tensor have one plan."""
    known = {plan.path: plan for plan in parts.parameters}
    for plan in parts.buffers:
        if known.get(plan.path, plan) != plan:
            raise ValueError(f"{plan.path!r} is a parameter and a buffer, with different plans.")
    return [plan for plan in parts.buffers if plan.path not in known]


def _check_gate_shapes(gates: Iterable[GateVector], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for gate in gates:
        if gate.name not in shapes:
            raise ValueError(
                f"The gates {gate.name!r} are on no parameter: no binding names them."
            )
        if shapes[gate.name] != gate.shape:
            raise ValueError(
                f"The gates {gate.name!r} have the shape {shown(str(gate.shape))}; their bindings "
                f"need {shown(str(shapes[gate.name]))}."
            )


def _check_multiplied(parts: SpecParts) -> None:
    """Refuse gates that scale no parameter, or scale a buffer."""
    scaled: set[str] = set()
    for plan in parts.parameters:
        scaled |= {binding.gate for binding in plan.bindings if binding.multiplies}
    for plan in _own_buffers(parts):
        if plan.multiplied:
            raise ValueError(f"The buffer {plan.path!r} is multiplied; gates only own buffers.")
    for gate in parts.gates:
        if gate.name not in scaled:
            raise ValueError(
                f"The gates {gate.name!r} multiply no parameter, so that nothing would teach them."
            )
