"""The static plan: which gates there are, how each is distributed, and which slices each
multiplies and owns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from l0func.distributions import GateDistribution, HardConcrete
from l0func.internal import names, tree
from l0func.internal.tree import Tree
from l0func.spec.plan import Binding, GateSpec, GateVector, Group, ParameterPlan, check_kinds
from l0func.spec.rules import Rule, Shape, element

RuleOrRules: TypeAlias = Rule | Sequence[Rule]
Rules: TypeAlias = Mapping[str, RuleOrRules | None]


def group(
    multiplies: Mapping[str, RuleOrRules],
    owns: Mapping[str, RuleOrRules] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> Group:
    """One gate vector over slices of several parameters.

    Args:
        multiplies: ``{path: rule or rules}``, the slices that carry the gate's effect and are
            scaled by it: for a hidden unit, the next layer's column.
        owns: The slices that matter only while the gate is open and go with it: the unit's row,
            bias, normalisation and running statistics (buffers may be named).
        attrs: JSON values that the module's structure depends on.

    Returns:
        A group, for ``gate_spec(params, groups={name: group})``.

    Raises:
        ValueError: It multiplies nothing, so that no gradient would reach its gates; or a shared
            run is multiplied.
    """
    if not multiplies:
        raise ValueError(
            "A group multiplies at least one parameter, or nothing tells its gates what they are "
            "worth."
        )
    for path, slices in multiplies.items():
        if any(getattr(rule, "sharers", 1) > 1 for rule in _as_rules(path, slices)):
            raise ValueError(
                f"Gates with sharers own a run of indices; {path!r} is multiplied. Name it in "
                f"owns."
            )
    return Group(
        _frozen(multiplies), _frozen(owns or {}), json.dumps(dict(attrs or {}), sort_keys=True)
    )


def _as_rules(path: str, slices: RuleOrRules) -> tuple[Rule, ...]:
    listed: tuple[object, ...] = tuple(slices) if isinstance(slices, list | tuple) else (slices,)
    for rule in listed:
        if not isinstance(rule, Rule):
            raise TypeError(
                "A rule is element(), axis(...), axes(...), blocks(...), tiles(...), whole(), a "
                "list of these, or None; "
                f"{path!r} has {rule!r}. Groups go to the groups argument."
            )
    return cast("tuple[Rule, ...]", listed)


def _frozen(slices: Mapping[str, RuleOrRules]) -> tuple[tuple[str, tuple[Rule, ...]], ...]:
    return tuple((path, _as_rules(path, of_path)) for path, of_path in slices.items())


def gate_spec(
    params: Tree,
    rules: Rules | None = None,
    *,
    groups: Mapping[str, Group] | None = None,
    buffers: Tree | None = None,
    distribution: GateDistribution | Mapping[str, GateDistribution] = HardConcrete(),
) -> GateSpec:
    """The plan of gates for some parameters.

    Args:
        params: Parameters, flat or nested.
        rules: ``{pattern: rule, rules or None}`` over dotted paths; the first match wins, None
            excludes, several rules multiply. Parameters that nothing matches have no gates. The
            gates of a lone rule are named by the path, those of several by path and rule. With
            neither rules nor groups every scalar has a gate.
        groups: ``{gate name: group}``.
        buffers: Buffers, where a group owns slices of some.
        distribution: A distribution for all gates, or ``{pattern: distribution}`` over gate names.

    Returns:
        The spec. Gates are float32, or float64 if a parameter that they are on is.

    Raises:
        TypeError: A rule, group or distribution is not one.
        ValueError: There are no parameters; a pattern or path matches nothing; a rule does not
            fit; slices of one group have different numbers of gates; a gate stands on integers; a
            name is used twice.
    """
    tensors = tree.leaves(params)
    state = tree.leaves(buffers, "buffers") if buffers is not None else {}
    if not tensors:
        raise ValueError(
            "There are no parameters to gate: params is empty. A module without parameters needs "
            "no gates."
        )
    check_kinds(rules, groups, distribution)
    if rules is None and groups is None:
        rules = {"*": element()}
    bound = _bound_by_rules(tensors, rules or {})
    for name, of_group in (groups or {}).items():
        if any(b.gate == name for _, b in bound):
            raise ValueError(
                f"Two sets of gates have the name {name!r}: a group's and a parameter's. Rename "
                f"the group."
            )
        bound += _bound_by_group(name, of_group, tensors, state)
    all_tensors = tensors | state
    _check_bound(bound, all_tensors)
    shapes = _gate_shapes(bound, all_tensors)
    chosen = names.per_path(distribution, shapes, "a distribution", "gate")
    dtypes = {name: _gate_dtype(name, bound, all_tensors) for name in shapes}

    def plan(path: str, tensor: Tensor) -> ParameterPlan:
        return ParameterPlan(
            path, tuple(tensor.shape), tensor.dtype, tuple(b for at, b in bound if at == path)
        )

    return GateSpec(
        tuple(
            GateVector(name, shape, chosen[name], dtypes[name]) for name, shape in shapes.items()
        ),
        tuple(plan(path, tensor) for path, tensor in tensors.items()),
        tuple(
            plan(path, tensor)
            for path, tensor in state.items()
            if any(at == path for at, _ in bound)
        ),
        tuple((name, of_group.attrs) for name, of_group in (groups or {}).items()),
    )


def _bound_by_rules(tensors: Mapping[str, Tensor], rules: Rules) -> list[tuple[str, Binding]]:
    names.check_patterns(rules, tensors, "parameter")
    bound: list[tuple[str, Binding]] = []
    for path in tensors:
        slices = next(iter(names.matches(path, rules)), None)
        of_path = () if slices is None else _as_rules(path, slices)
        for rule in of_path:
            if getattr(rule, "sharers", 1) > 1:
                raise ValueError(
                    f"{rule} lets gates share a run, which only a group's owns can; {path!r} is "
                    f"multiplied."
                )
            bound.append(
                (
                    path,
                    Binding(
                        path if len(of_path) == 1 else f"{path}:{rule}", rule, multiplies=True
                    ),
                )
            )
    return bound


def _bound_by_group(
    name: str, of_group: Group, tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> list[tuple[str, Binding]]:
    bound: list[tuple[str, Binding]] = []
    for slices, known, multiplies in (
        (of_group.multiplies, tensors, True),
        (of_group.owns, {**tensors, **state}, False),
    ):
        for path, of_path in slices:
            if path not in known:
                raise ValueError(
                    f"Group {name!r} names {path!r}, which is not "
                    f"there{names.closest(path, known)}."
                    + (
                        ""
                        if multiplies or state
                        else " Buffers are seen only if gate_spec is given buffers."
                    )
                )
            bound += [(path, Binding(name, rule, multiplies)) for rule in of_path]
    return bound


def _check_bound(bound: Sequence[tuple[str, Binding]], tensors: Mapping[str, Tensor]) -> None:
    for i, (path, binding) in enumerate(bound):
        if binding.multiplies and not tensors[path].is_floating_point():
            raise ValueError(
                f"A gate scales real floating-point numbers; {path!r} is {tensors[path].dtype}. "
                f"Exclude it: {{{path!r}: None}}."
            )
        for other_path, other in bound[:i]:
            if (other_path, other.gate) == (path, binding.gate):
                if other.rule == binding.rule:
                    raise ValueError(
                        f"{binding.gate!r} is on {path!r} twice by the same rule, {binding.rule}."
                    )
                if any(getattr(rule, "sharers", 1) > 1 for rule in (other.rule, binding.rule)):
                    raise ValueError(
                        f"{binding.gate!r} is on {path!r} twice, once with sharers; split it into "
                        f"two groups."
                    )


def _gate_shapes(
    bound: Sequence[tuple[str, Binding]], tensors: Mapping[str, Tensor]
) -> dict[str, Shape]:
    shapes: dict[str, tuple[Shape, str]] = {}
    for path, binding in bound:
        try:
            shape = binding.rule.gates(tuple(tensors[path].shape))
        except ValueError as error:
            raise ValueError(f"On {path!r}: {error}") from None
        known, where = shapes.setdefault(binding.gate, (shape, f"{path} {binding.rule}"))
        if known != shape:
            raise ValueError(
                f"All slices of group {binding.gate!r} have the same number of gates; "
                f"{where} has {known}, {path} {binding.rule} has {shape}."
            )
    return {name: shape for name, (shape, _) in shapes.items()}


def _gate_dtype(
    name: str, bound: Sequence[tuple[str, Binding]], tensors: Mapping[str, Tensor]
) -> torch.dtype:
    wide = any(b.gate == name and tensors[path].dtype == torch.float64 for path, b in bound)
    return torch.float64 if wide else torch.float32
