"""``gate_spec`` and ``group``: from a user's description of the gates to a gate spec."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from l0func.distributions import GateDistribution, HardConcrete
from l0func.internal import names, tree
from l0func.internal.kinds import check_has_shape, is_wide
from l0func.internal.tree import Tree
from l0func.spec.bindings import (
    Bound,
    bindings_by_path,
    bound_by_groups,
    bound_by_rules,
    check_bound,
    check_distinct,
    gate_shapes,
)
from l0func.spec.plan import (
    Binding,
    GateSpec,
    GateVector,
    Group,
    GroupSlices,
    ParameterPlan,
    check_distributions,
    check_instances,
    plain_number,
)
from l0func.spec.rules import RuleOrRules, as_rules, element, has_sharers

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
        owns: The slices that matter only while the gate is open and are removed with it: the
            unit's output row, bias, normalisation and running statistics (buffers may be named).
        attrs: ``{module attribute: amount for one unit}``, such as ``{"attention.heads": 1}``.
            :func:`l0func.compact` lowers each attribute by this amount for every closed gate.
            In place of an amount, ``{"power": p, "of": path, "dim": d}`` multiplies an attribute
            or a tensor by (N / N')**p, where dimension ``d`` of the tensor ``path`` has N slices
            before and N' after: an RMSNorm needs its eps with power 1 and its weight with 1 / 2.

    Returns:
        A group, for ``gate_spec(params, groups={name: group})``.

    Raises:
        TypeError: An argument is no mapping, or has no rule for a path.
        ValueError: The group multiplies nothing, so that no gradient would reach its gates; or it
            multiplies by a rule with sharers.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Linear(4, 3))
        >>> params = dict(net.named_parameters())
        >>> row = l0.axis(0)
        >>> hidden = l0.group({"1.weight": l0.axis(1)}, owns={"0.weight": row, "0.bias": row})
        >>> spec = l0.gate_spec(params, groups={"hidden": hidden})
        >>> spec.gates[0].size  # a gate for each hidden unit
        4
    """
    _check_mapping("multiplies", multiplies, "{path: rule}")
    _check_mapping("owns", owns, "{path: rule}")
    _check_mapping("attrs", attrs, "{module attribute: amount for one unit}")
    if not multiplies:
        raise ValueError(
            "A group multiplies at least one parameter: its gates learn from the gradient that "
            "reaches them there. Name one in multiplies."
        )
    for path, slices in multiplies.items():
        if any(has_sharers(rule) for rule in as_rules(path, slices)):
            raise ValueError(
                f"Gates with sharers own a run of indices; {path!r} is multiplied. Name it in "
                f"owns."
            )
    plain = json.loads(_text_of(attrs or {}))
    return Group(_group_slices(multiplies), _group_slices(owns or {}), plain)


def _text_of(attrs: Mapping[str, Any]) -> str:
    return json.dumps(dict(attrs), sort_keys=True, default=plain_number)


def _group_slices(slices: Mapping[str, RuleOrRules]) -> GroupSlices:
    return tuple((path, as_rules(path, on_path)) for path, on_path in slices.items())


def gate_spec(
    params: Tree,
    rules: Rules | None = None,
    *,
    groups: Mapping[str, Group] | None = None,
    buffers: Tree | None = None,
    distribution: GateDistribution | Mapping[str, GateDistribution] = HardConcrete(),
) -> GateSpec:
    """A static plan: the gates on some parameters.

    Args:
        params: Parameters, flat or nested.
        rules: ``{pattern: rule, rules or None}`` over dotted paths. The first match wins, None
            excludes, and the gates of several rules multiply. Parameters without a match have no
            gates. The name of a gate vector is the parameter's path; where several rules are on
            one parameter it is ``path:rule``. With neither rules nor groups every entry has a
            gate.
        groups: ``{gate name: group}``.
        buffers: Buffers, where a group owns some.
        distribution: A distribution for all gates, or ``{pattern: distribution}`` over gate names.

    Returns:
        The spec. Gates are float64 if one of their parameters is (or is complex128), and float32
        otherwise.

    Raises:
        TypeError: A rule, a group or a distribution has another type.
        ValueError: There are no parameters; a pattern or path matches nothing; a rule does not
            fit; two rules name the same slices of a parameter; slices of one group have different
            numbers of gates; a gate multiplies integers, or acts on a sparse tensor; a parameter
            is a nested tensor; a name is used twice.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> fn, params, buffers = l0.make_functional(torch.nn.Linear(3, 2))
        >>> spec = l0.gate_spec(params, {"*weight": l0.element(), "*bias": None})
        >>> [(gate.name, gate.shape) for gate in spec.gates]
        [('weight', (2, 3))]
    """
    tensors = tree.leaves(params)
    named_buffers = {} if buffers is None else tree.leaves(buffers, "buffers")
    if not tensors:
        raise ValueError(
            "There are no parameters to gate: params is empty. A module without parameters needs "
            "no gates."
        )
    _check_kinds(rules, groups, distribution)
    for path, tensor in tensors.items():
        check_has_shape(path, tensor)
    if rules is None and groups is None:
        rules = {"*": element()}
    return _planned(tensors, named_buffers, rules or {}, groups or {}, distribution)


def _check_kinds(rules: Any, groups: Any, distribution: Any) -> None:
    """Refuse arguments with a wrong type.

    Duck typing would accept some here, and fail on them elsewhere.

    Raises:
        TypeError: An argument, or a value in its table, has the wrong type.
    """
    _check_mapping("rules", rules, "{pattern: rule}")
    _check_patterns(rules or {})
    _check_mapping("groups", groups, "{name: l0func.group(...)}")
    check_instances(groups or {}, Group, "A group is made by l0func.group(...)")
    check_distributions(distribution)


def _check_mapping(name: str, value: Any, form: str) -> None:
    if value is not None and not isinstance(value, Mapping):
        raise TypeError(f"{name} are {form}; got {type(value).__name__}.")


def _check_patterns(rules: Mapping[Any, Any]) -> None:
    for pattern, rule in rules.items():
        if isinstance(rule, Group):
            raise TypeError(
                f"rules are {{pattern: rule}}, and {pattern!r} has a group. Pass groups by name: "
                "gate_spec(params, groups=groups)."
            )
        if not isinstance(pattern, str):
            raise TypeError(
                "The patterns in rules are text over dotted paths, such as 'encoder.*.weight'; "
                f"got {pattern!r}. Name the parameters that are to have gates by their paths."
            )


def _check_some_gates(rules: Rules, groups: Mapping[str, Group], paths: Iterable[str]) -> None:
    """Refuse rules that exclude some parameters and gate none.

    Rules that exclude every parameter are meant so: the spec without gates serves a gated function
    that only draws dropout from its key.

    Raises:
        ValueError: There is no group, no rule gates a parameter, and some have no rule.
    """
    paths = list(paths)
    found = names.first_matches(paths, rules)
    gates_some = any(rule not in (None, [], ()) for rule in found.values())
    if groups or gates_some or len(found) == len(paths):
        return
    raise ValueError(
        f"The rules {dict(rules)} gate nothing: they name the parameters that have gates, and the "
        'others have none. Add a rule for the rest, such as {"*": l0func.element()} at the end; '
        '{"*": None} alone is a spec without gates.'
    )


def _planned(
    params: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    rules: Rules,
    groups: Mapping[str, Group],
    distribution: GateDistribution | Mapping[str, GateDistribution],
) -> GateSpec:
    of_rules = bound_by_rules(rules, params)
    _check_some_gates(rules, groups, params)
    taken = {entry.binding.gate for entry in of_rules}
    bound = [*of_rules, *bound_by_groups(groups, params, buffers, taken)]
    tensors = {**params, **buffers}
    check_bound(bound, tensors)
    vectors = _gate_vectors(bound, tensors, distribution)
    check_distinct(of_rules, params)
    by_path = bindings_by_path(bound)
    owned_buffers = {path: buffer for path, buffer in buffers.items() if path in by_path}
    return GateSpec(
        vectors,
        _parameter_plans(params, by_path),
        _parameter_plans(owned_buffers, by_path),
        tuple((name, _text_of(group.attrs)) for name, group in groups.items()),
    )


def _gate_vectors(
    bound: Iterable[Bound],
    tensors: Mapping[str, Tensor],
    distribution: GateDistribution | Mapping[str, GateDistribution],
) -> tuple[GateVector, ...]:
    shapes = gate_shapes(bound, tensors)
    chosen = names.per_path(distribution, shapes, "a distribution", "gate")
    wide = _gates_on_float64(bound, tensors)
    vectors: list[GateVector] = []
    for name, shape in shapes.items():
        dtype = torch.float64 if name in wide else torch.float32
        vectors.append(GateVector(name, shape, chosen[name], dtype))
    return tuple(vectors)


def _gates_on_float64(bound: Iterable[Bound], tensors: Mapping[str, Tensor]) -> set[str]:
    """The names of gates on at least one tensor with 64 bits a real number."""
    return {binding.gate for path, binding in bound if is_wide(tensors[path].dtype)}


def _parameter_plans(
    tensors: Mapping[str, Tensor], by_path: Mapping[str, tuple[Binding, ...]]
) -> tuple[ParameterPlan, ...]:
    plans: list[ParameterPlan] = []
    for path, tensor in tensors.items():
        shape = tuple(tensor.shape)
        plans.append(ParameterPlan(path, shape, tensor.dtype, by_path.get(path, ())))
    return tuple(plans)
