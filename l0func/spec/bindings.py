"""Rules and groups as bindings, each checked against its tensor; ``gate_spec`` builds on them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from l0func.internal import names
from l0func.internal.kinds import check_can_be_gated
from l0func.spec.parts import Binding, Group, GroupSlices
from l0func.spec.rules import Rule, RuleOrRules, Shape, as_rules, has_sharers


class Bound(NamedTuple):
    """A binding, and its tensor's path."""

    path: str
    binding: Binding


def bound_by_rules(
    rules: Mapping[str, RuleOrRules | None], params: Mapping[str, Tensor]
) -> list[Bound]:
    """The bindings from the rules, parameter by parameter.

    Raises:
        TypeError: A value is not a rule.
        ValueError: A pattern matches no parameter, or a rule has sharers.
    """
    names.check_patterns(rules, params, "parameter")
    bound: list[Bound] = []
    for path, slices in names.first_matches(params, rules).items():
        if slices is None:
            continue
        on_path = as_rules(path, slices)
        for rule in on_path:
            check_multiplier(path, rule)
            gate = path if len(on_path) == 1 else f"{path}:{rule}"
            bound.append(Bound(path, Binding(gate, rule, multiplies=True)))
    return bound


def check_distinct(bound: Iterable[Bound], params: Mapping[str, Tensor]) -> None:
    """Refuse two rules that put gates of their own on the same slices of a parameter.

    Args:
        bound: The bindings from the rules; each rule fits its parameter.
        params: The parameters.

    Raises:
        ValueError: Two rules on a parameter mean the same there, as axis(1) and axis(-1) do.
    """
    seen: dict[str, list[Rule]] = {}
    for path, binding in bound:
        shape = tuple(params[path].shape)
        earlier = seen.setdefault(path, [])
        for rule in earlier:
            if _same_slices(rule, binding.rule, shape):
                raise ValueError(
                    f"{rule} and {binding.rule} name the same slices of {path!r}, of shape "
                    f"{shape}, and each slice would have two gates. Leave one rule out."
                )
        earlier.append(binding.rule)


def _same_slices(rule: Rule, other: Rule, shape: Shape) -> bool:
    """Whether two rules number the entries of a tensor alike."""
    if math.prod(rule.gates(shape)) != math.prod(other.gates(shape)):
        return False
    return torch.equal(rule.index(shape), other.index(shape))


def check_multiplier(path: str, rule: Rule) -> None:
    """Refuse a rule that cannot scale a parameter.

    Raises:
        ValueError: The rule has sharers.
    """
    if has_sharers(rule):
        raise ValueError(
            f"{rule} lets several gates share a run. Only the owns of a group may have sharers; "
            f"{path!r} is multiplied."
        )


def bound_by_groups(
    groups: Mapping[str, Group],
    params: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    taken: set[str],
) -> list[Bound]:
    """The bindings from the groups, group by group.

    Args:
        groups: ``{gate name: group}``.
        params: Parameters, for multiplied and owned slices.
        buffers: Buffers, for owned slices.
        taken: Gate names that the rules use already.

    Raises:
        ValueError: A group has a taken name, or names an unknown tensor.
    """
    tensors = {**params, **buffers}
    bound: list[Bound] = []
    for name, group in groups.items():
        if name in taken:
            raise ValueError(
                f"Two sets of gates have the name {name!r}: a group's and a parameter's. Rename "
                f"the group."
            )
        _check_known(name, group.multiplies, params, "")
        bound += _bound_slices(name, group.multiplies, multiplies=True)
        hint = "" if buffers else " Buffers are seen only if gate_spec is given buffers."
        _check_known(name, group.owns, tensors, hint)
        bound += _bound_slices(name, group.owns, multiplies=False)
    return bound


def _check_known(name: str, slices: GroupSlices, known: Mapping[str, Tensor], hint: str) -> None:
    for path, _ in slices:
        if path not in known:
            raise ValueError(
                f"Group {name!r} names {path!r}, which is not there{names.closest(path, known)}."
                f"{hint}"
            )


def _bound_slices(gate: str, slices: GroupSlices, *, multiplies: bool) -> list[Bound]:
    bound: list[Bound] = []
    for path, rules in slices:
        bound += [Bound(path, Binding(gate, rule, multiplies)) for rule in rules]
    return bound


def check_bound(bound: Iterable[Bound], tensors: Mapping[str, Tensor]) -> None:
    """Refuse a gate that cannot act on its tensor, or is twice on a tensor in the same way.

    Raises:
        ValueError: A gate multiplies integers, acts on a sparse tensor, is twice on a tensor by
            the same rule, or is twice on a tensor where it has sharers.
    """
    seen: dict[tuple[str, str], list[Rule]] = {}
    for path, binding in bound:
        check_can_be_gated(path, tensors[path], multiplied=binding.multiplies)
        earlier = seen.setdefault((path, binding.gate), [])
        for rule in earlier:
            _check_pair(path, binding, rule)
        earlier.append(binding.rule)


def _check_pair(path: str, binding: Binding, earlier: Rule) -> None:
    """Check a binding against an earlier rule for the same gate and tensor."""
    if earlier == binding.rule:
        raise ValueError(
            f"{binding.gate!r} is on {path!r} twice by the same rule, {binding.rule}."
        )
    if has_sharers(earlier) or has_sharers(binding.rule):
        raise ValueError(
            f"{binding.gate!r} is on {path!r} twice, once with sharers; split it into two groups."
        )


def gate_shapes(bound: Iterable[Bound], tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    """Each gate vector's shape, ordered by first use.

    Raises:
        ValueError: A rule does not fit its tensor, or the slices of one group have different
            numbers of gates.
    """
    shapes: dict[str, Shape] = {}
    first: dict[str, Bound] = {}
    for entry in bound:
        gate = entry.binding.gate
        shape = _gate_shape(entry, tensors)
        if gate not in shapes:
            shapes[gate], first[gate] = shape, entry
        elif shapes[gate] != shape:
            raise ValueError(
                f"All slices of group {gate!r} have the same number of gates; "
                f"{_on_path(first[gate])} has {shapes[gate]}, {_on_path(entry)} has {shape}."
            )
    return shapes


def _gate_shape(entry: Bound, tensors: Mapping[str, Tensor]) -> Shape:
    try:
        return entry.binding.rule.gates(tuple(tensors[entry.path].shape))
    except ValueError as error:
        raise ValueError(f"On {entry.path!r}: {error}") from None


def _on_path(entry: Bound) -> str:
    return f"{entry.path} {entry.binding.rule}"


def bindings_by_path(bound: Iterable[Bound]) -> dict[str, tuple[Binding, ...]]:
    """The bindings on each tensor, in their order."""
    by_path: dict[str, list[Binding]] = {}
    for path, binding in bound:
        by_path.setdefault(path, []).append(binding)
    return {path: tuple(bindings) for path, bindings in by_path.items()}
