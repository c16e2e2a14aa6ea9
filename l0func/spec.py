"""The static plan: which gates there are, how each is distributed, and which slices each multiplies and owns."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from l0func import distributions, rules, tree
from l0func.distributions import GateDistribution, HardConcrete
from l0func.rules import Rule, Shape, element
from l0func.tree import Tree

Slices: TypeAlias = Rule | Sequence[Rule]
Rules: TypeAlias = Mapping[str, Slices | None]


def stream(name: str) -> int:
    """The number that is folded into a key for what has this name: the first 8 bytes of its SHA-256."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little", signed=True)


@dataclass(frozen=True)
class Gate:
    """A vector of gates: its name, shape, distribution and dtype."""

    name: str
    shape: Shape
    distribution: GateDistribution
    dtype: torch.dtype

    stream: int = field(init=False, repr=False, compare=False)
    """The number that is folded into a key for this gate."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stream", stream(self.name))


@dataclass(frozen=True)
class Binding:
    """A gate on slices of one tensor, which it multiplies or only owns."""

    gate: str
    rule: Rule
    multiplies: bool


@dataclass(frozen=True)
class Parameter:
    """A parameter (or an owned buffer) as the spec saw it, and the gates on it."""

    path: str
    shape: Shape
    dtype: torch.dtype
    bindings: tuple[Binding, ...] = ()

    def lay_out(self, values: Mapping[str, Tensor], *, owned: bool, of_owners: Mapping[str, Tensor] | None = None) -> Tensor:
        """The product, for every entry, of the values of the *distinct* gates on it.

        Args:
            values: For each gate a value, its shape that of the gate vector.
            owned: Whether gates count that own an entry without multiplying it.
            of_owners: Other values for those gates.

        Returns:
            The parameter's rank, broadcastable to it; 1 where no gate is.
        """
        product: Tensor | None = None
        done: list[Binding] = []
        # Multipliers first: a gate that both multiplies and owns an entry counts as what it does to the value.
        for binding in sorted(self.bindings, key=lambda b: not b.multiplies):
            if not (owned or binding.multiplies):
                continue
            source = values if binding.multiplies or of_owners is None else of_owners
            factor = binding.rule.spread(source[binding.gate], self.shape)
            for other in done:
                if other.gate == binding.gate:
                    # A gate on an entry twice, as a unit on its own recurrent weight, is still one gate.
                    again = binding.rule.index(self.shape) == other.rule.index(self.shape)
                    factor = torch.where(again.to(factor.device), 1.0, factor)
            product = factor if product is None else product * factor
            done.append(binding)
        assert product is not None
        return product

    @property
    def size(self) -> int:
        """Number of entries."""
        return torch.Size(self.shape).numel()

    @property
    def multiplied(self) -> bool:
        """Whether any gate scales it."""
        return any(binding.multiplies for binding in self.bindings)


@dataclass(frozen=True)
class Group:
    """What :func:`group` returns."""

    multiplies: tuple[tuple[str, tuple[Rule, ...]], ...]
    owns: tuple[tuple[str, tuple[Rule, ...]], ...] = ()
    attrs: str = "{}"


def group(
    multiplies: Mapping[str, Slices],
    owns: Mapping[str, Slices] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> Group:
    """One gate vector over slices of several parameters.

    Args:
        multiplies: ``{path: rule or rules}``, the slices that carry the gate's effect and are scaled by it: for a hidden
            unit, the next layer's column.
        owns: The slices that matter only while the gate is open and go with it: the unit's row, bias, normalisation and
            running statistics (buffers may be named).
        attrs: JSON values that the module's structure depends on.

    Returns:
        A group, for ``gate_spec(params, groups={name: group})``.

    Raises:
        ValueError: It multiplies nothing, so that no gradient would reach its gates; or a shared run is multiplied.
    """
    if not multiplies:
        raise ValueError("A group multiplies at least one parameter, or nothing tells its gates what they are worth.")
    for path, slices in multiplies.items():
        if any(getattr(rule, "sharers", 1) > 1 for rule in _rules(path, slices)):
            raise ValueError(f"Gates with sharers own a run of indices; {path!r} is multiplied. Name it in owns.")
    return Group(_frozen(multiplies), _frozen(owns or {}), json.dumps(dict(attrs or {}), sort_keys=True))


def _rules(path: str, slices: Slices) -> tuple[Rule, ...]:
    listed: tuple[object, ...] = tuple(slices) if isinstance(slices, list | tuple) else (slices,)
    for rule in listed:
        if not isinstance(rule, Rule):
            raise TypeError(
                "A rule is element(), axis(...), axes(...), blocks(...), tiles(...), whole(), a list of these, or None; "
                f"{path!r} has {rule!r}. Groups go to the groups argument."
            )
    return cast("tuple[Rule, ...]", listed)


def _frozen(slices: Mapping[str, Slices]) -> tuple[tuple[str, tuple[Rule, ...]], ...]:
    return tuple((path, _rules(path, of_path)) for path, of_path in slices.items())


@dataclass(frozen=True)
class GateSpec:
    """A plan of gates over named parameters; static, hashable, and JSON both ways. Build it with :func:`gate_spec`."""

    gates: tuple[Gate, ...]
    parameters: tuple[Parameter, ...]
    buffers: tuple[Parameter, ...] = ()
    attrs: tuple[tuple[str, str], ...] = ()

    def gated(self) -> Iterator[Parameter]:
        """The parameters behind at least one gate, multiplied or owned."""
        return (p for p in self.parameters if p.bindings)

    def with_distribution(self, distribution: GateDistribution | Mapping[str, GateDistribution]) -> GateSpec:
        """The same gates under another distribution, such as the next temperature of a schedule.

        Args:
            distribution: A distribution for all gates, or ``{pattern: distribution}`` over gate names.

        Returns:
            A spec of the same gate names and shapes, for the same gates.

        Raises:
            TypeError: It is no distribution.
            ValueError: A pattern matches no gate, or a gate no pattern.
        """
        _check_kinds(None, None, distribution)
        chosen = tree.per_path(distribution, [gate.name for gate in self.gates], "a distribution", "gate")
        return replace(self, gates=tuple(replace(gate, distribution=chosen[gate.name]) for gate in self.gates))

    def to_json(self) -> str:
        """The spec as text, for :meth:`from_json`."""

        def tensor(p: Parameter) -> dict[str, Any]:
            bound = [{"gate": b.gate, "multiplies": b.multiplies, **b.rule.to_dict()} for b in p.bindings]
            return {"path": p.path, "shape": p.shape, "dtype": str(p.dtype).split(".")[-1], "bindings": bound}

        return json.dumps(
            {
                "gates": [
                    {"name": g.name, "shape": g.shape, "dtype": str(g.dtype).split(".")[-1], **g.distribution.to_dict()}
                    for g in self.gates
                ],
                "parameters": [tensor(p) for p in self.parameters],
                "buffers": [tensor(p) for p in self.buffers],
                "attrs": [list(pair) for pair in self.attrs],
            }
        )

    @staticmethod
    def from_json(text: str, /) -> GateSpec:
        """The spec that :meth:`to_json` wrote.

        Raises:
            ValueError: The text is no spec, or a rule or a distribution is unknown.
        """

        def gate(record: dict[str, Any]) -> Gate:
            name, shape, dtype = (record.pop(field) for field in ("name", "shape", "dtype"))
            return Gate(name, tuple(shape), distributions.from_dict(record), getattr(torch, dtype))

        def binding(record: dict[str, Any]) -> Binding:
            name, multiplies = record.pop("gate"), record.pop("multiplies")
            return Binding(name, rules.from_dict(record), multiplies)

        def tensor(record: dict[str, Any]) -> Parameter:
            bindings = tuple(binding(b) for b in record["bindings"])
            return Parameter(record["path"], tuple(record["shape"]), getattr(torch, record["dtype"]), bindings)

        record: Any = json.loads(text)
        if not (_is_mapping(record) and {"gates", "parameters", "buffers", "attrs"} <= set(record)):
            raise ValueError(f"A spec is what GateSpec.to_json wrote; got {text[:60]!r}.")
        return GateSpec(
            tuple(gate(g) for g in record["gates"]),
            tuple(tensor(p) for p in record["parameters"]),
            tuple(tensor(p) for p in record["buffers"]),
            tuple((name, attrs) for name, attrs in record["attrs"]),
        )

    def __str__(self) -> str:
        lines = [f"GateSpec: {sum(torch.Size(g.shape).numel() for g in self.gates)} gates"]
        for p in self.parameters:
            bound = [f"{'×' if b.multiplies else 'owned by'} {b.gate} {b.rule}" for b in p.bindings]
            lines.append(f"  {p.path} {p.shape}: {', '.join(bound) or 'not gated'}")
        return "\n".join(lines)


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
        rules: ``{pattern: rule, rules or None}`` over dotted paths; the first match wins, None excludes, several rules
            multiply. Parameters that nothing matches have no gates. The gates of a lone rule are named by the path, those
            of several by path and rule. With neither rules nor groups every scalar has a gate.
        groups: ``{gate name: group}``.
        buffers: Buffers, where a group owns slices of some.
        distribution: A distribution for all gates, or ``{pattern: distribution}`` over gate names.

    Returns:
        The spec. Gates are float32, or float64 if a parameter that they are on is.

    Raises:
        TypeError: A rule, group or distribution is not one.
        ValueError: There are no parameters; a pattern or path matches nothing; a rule does not fit; slices of one group
            have different numbers of gates; a gate stands on integers; a name is used twice.
    """
    tensors = tree.leaves(params)
    state = tree.leaves(buffers, "buffers") if buffers is not None else {}
    if not tensors:
        raise ValueError("There are no parameters to gate: params is empty. A module without parameters needs no gates.")
    _check_kinds(rules, groups, distribution)
    if rules is None and groups is None:
        rules = {"*": element()}
    bound = _bound_by_rules(tensors, rules or {})
    for name, of_group in (groups or {}).items():
        if any(b.gate == name for _, b in bound):
            raise ValueError(f"Two sets of gates have the name {name!r}: a group's and a parameter's. Rename the group.")
        bound += _bound_by_group(name, of_group, tensors, state)
    all_tensors = tensors | state
    _check_bound(bound, all_tensors)
    shapes = _gate_shapes(bound, all_tensors)
    chosen = tree.per_path(distribution, shapes, "a distribution", "gate")
    dtypes = {name: _gate_dtype(name, bound, all_tensors) for name in shapes}

    def plan(path: str, tensor: Tensor) -> Parameter:
        return Parameter(path, tuple(tensor.shape), tensor.dtype, tuple(b for at, b in bound if at == path))

    return GateSpec(
        tuple(Gate(name, shape, chosen[name], dtypes[name]) for name, shape in shapes.items()),
        tuple(plan(path, tensor) for path, tensor in tensors.items()),
        tuple(plan(path, tensor) for path, tensor in state.items() if any(at == path for at, _ in bound)),
        tuple((name, of_group.attrs) for name, of_group in (groups or {}).items()),
    )


def check_spec(spec: Any) -> None:
    """Refuse what is not a spec.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(spec, GateSpec):
        raise TypeError(
            f"A spec is what l0func.gate_spec returned; got {type(spec).__name__}. "
            "Groups go in as gate_spec(params, groups=groups)."
        )


def _check_kinds(rules: Any, groups: Any, distribution: Any) -> None:
    # What duck typing would take and fail on far from here, or not at all.
    for name, table, form in (("rules", rules, "{pattern: rule}"), ("groups", groups, "{name: l0func.group(...)}")):
        if not (table is None or _is_mapping(table)):
            raise TypeError(f"{name} are {form}; got {type(table).__name__}.")
    _check_instances(groups or {}, Group, "A group is made by l0func.group(...)")
    chosen = distribution if _is_mapping(distribution) else {"*": distribution}
    _check_instances(chosen, GateDistribution, "A distribution is an instance, such as HardConcrete()")


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _check_instances(table: Mapping[str, Any], kind: type, rule: str) -> None:
    for name, value in table.items():
        if not isinstance(value, kind):
            raise TypeError(f"{rule}; {name!r} has {value!r}.")


def _bound_by_rules(tensors: Mapping[str, Tensor], rules: Rules) -> list[tuple[str, Binding]]:
    tree.check_patterns(rules, tensors, "parameter")
    bound: list[tuple[str, Binding]] = []
    for path in tensors:
        slices = next(iter(tree.matches(path, rules)), None)
        of_path = () if slices is None else _rules(path, slices)
        for rule in of_path:
            if getattr(rule, "sharers", 1) > 1:
                raise ValueError(f"{rule} lets gates share a run, which only a group's owns can; {path!r} is multiplied.")
            bound.append((path, Binding(path if len(of_path) == 1 else f"{path}:{rule}", rule, multiplies=True)))
    return bound


def _bound_by_group(
    name: str, of_group: Group, tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> list[tuple[str, Binding]]:
    bound: list[tuple[str, Binding]] = []
    for slices, known, multiplies in ((of_group.multiplies, tensors, True), (of_group.owns, {**tensors, **state}, False)):
        for path, of_path in slices:
            if path not in known:
                raise ValueError(
                    f"Group {name!r} names {path!r}, which is not there{tree.closest(path, known)}."
                    + ("" if multiplies or state else " Buffers are seen only if gate_spec is given buffers.")
                )
            bound += [(path, Binding(name, rule, multiplies)) for rule in of_path]
    return bound


def _check_bound(bound: Sequence[tuple[str, Binding]], tensors: Mapping[str, Tensor]) -> None:
    for i, (path, binding) in enumerate(bound):
        if binding.multiplies and not tensors[path].is_floating_point():
            raise ValueError(
                f"A gate scales real floating-point numbers; {path!r} is {tensors[path].dtype}. Exclude it: {{{path!r}: None}}."
            )
        for other_path, other in bound[:i]:
            if (other_path, other.gate) == (path, binding.gate):
                if other.rule == binding.rule:
                    raise ValueError(f"{binding.gate!r} is on {path!r} twice by the same rule, {binding.rule}.")
                if any(getattr(rule, "sharers", 1) > 1 for rule in (other.rule, binding.rule)):
                    raise ValueError(f"{binding.gate!r} is on {path!r} twice, once with sharers; split it into two groups.")


def _gate_shapes(bound: Sequence[tuple[str, Binding]], tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
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


def _gate_dtype(name: str, bound: Sequence[tuple[str, Binding]], tensors: Mapping[str, Tensor]) -> torch.dtype:
    wide = any(b.gate == name and tensors[path].dtype == torch.float64 for path, b in bound)
    return torch.float64 if wide else torch.float32
