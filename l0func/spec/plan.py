"""The gate spec: gate vectors, and the parameter slices that each one multiplies or owns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from l0func import distributions
from l0func.distributions import GateDistribution
from l0func.internal import names
from l0func.internal.names import stream
from l0func.spec import rules
from l0func.spec.rules import Rule, Shape


@dataclass(frozen=True)
class GateVector:
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
class ParameterPlan:
    """A parameter (or an owned buffer) as the spec saw it, and the gates on it."""

    path: str
    shape: Shape
    dtype: torch.dtype
    bindings: tuple[Binding, ...] = ()

    def spread(
        self,
        values: Mapping[str, Tensor],
        *,
        owned: bool,
        owners: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """The product, for every entry, of the values of the *distinct* gates on it.

        Args:
            values: For each gate a value, its shape that of the gate vector.
            owned: Whether gates count that own an entry without multiplying it.
            owners: Other values for those gates.

        Returns:
            The parameter's rank, broadcastable to it; 1 where no gate is.
        """
        product: Tensor | None = None
        done: list[Binding] = []
        # Multipliers first: a gate that both multiplies and owns an entry counts as what it does
        # to the value.
        for binding in sorted(self.bindings, key=lambda b: not b.multiplies):
            if not (owned or binding.multiplies):
                continue
            source = values if binding.multiplies or owners is None else owners
            factor = binding.rule.spread(source[binding.gate], self.shape)
            for other in done:
                if other.gate == binding.gate:
                    # A gate on an entry twice, as a unit on its own recurrent weight, is still one
                    # gate.
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


@dataclass(frozen=True)
class GateSpec:
    """A plan of gates over named parameters; static, hashable, and JSON both ways. Build it with
    :func:`gate_spec`.
    """

    gates: tuple[GateVector, ...]
    parameters: tuple[ParameterPlan, ...]
    buffers: tuple[ParameterPlan, ...] = ()
    attrs: tuple[tuple[str, str], ...] = ()

    def gated(self) -> Iterator[ParameterPlan]:
        """The parameters behind at least one gate, multiplied or owned."""
        return (p for p in self.parameters if p.bindings)

    def with_distribution(
        self, distribution: GateDistribution | Mapping[str, GateDistribution]
    ) -> GateSpec:
        """The same gates under another distribution, such as the next temperature of a schedule.

        Args:
            distribution: A distribution for all gates, or ``{pattern: distribution}`` over gate
                names.

        Returns:
            A spec of the same gate names and shapes, for the same gates.

        Raises:
            TypeError: It is no distribution.
            ValueError: A pattern matches no gate, or a gate no pattern.
        """
        check_kinds(None, None, distribution)
        chosen = names.per_path(
            distribution, [gate.name for gate in self.gates], "a distribution", "gate"
        )
        return replace(
            self, gates=tuple(replace(gate, distribution=chosen[gate.name]) for gate in self.gates)
        )

    def to_json(self) -> str:
        """The spec as text, for :meth:`from_json`."""

        def tensor(p: ParameterPlan) -> dict[str, Any]:
            bound = [
                {"gate": b.gate, "multiplies": b.multiplies, **b.rule.to_dict()}
                for b in p.bindings
            ]
            return {
                "path": p.path,
                "shape": p.shape,
                "dtype": str(p.dtype).split(".")[-1],
                "bindings": bound,
            }

        return json.dumps(
            {
                "gates": [
                    {
                        "name": g.name,
                        "shape": g.shape,
                        "dtype": str(g.dtype).split(".")[-1],
                        **g.distribution.to_dict(),
                    }
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

        def gate(record: dict[str, Any]) -> GateVector:
            name, shape, dtype = (record.pop(field) for field in ("name", "shape", "dtype"))
            return GateVector(
                name, tuple(shape), distributions.from_dict(record), getattr(torch, dtype)
            )

        def binding(record: dict[str, Any]) -> Binding:
            name, multiplies = record.pop("gate"), record.pop("multiplies")
            return Binding(name, rules.rule_from_dict(record), multiplies)

        def tensor(record: dict[str, Any]) -> ParameterPlan:
            bindings = tuple(binding(b) for b in record["bindings"])
            return ParameterPlan(
                record["path"], tuple(record["shape"]), getattr(torch, record["dtype"]), bindings
            )

        record: Any = json.loads(text)
        if not (
            _is_mapping(record) and {"gates", "parameters", "buffers", "attrs"} <= set(record)
        ):
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
            bound = [
                f"{'×' if b.multiplies else 'owned by'} {b.gate} {b.rule}" for b in p.bindings
            ]
            lines.append(f"  {p.path} {p.shape}: {', '.join(bound) or 'not gated'}")
        return "\n".join(lines)


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


def check_kinds(rules: Any, groups: Any, distribution: Any) -> None:
    """Refuse rules, groups and distributions of other types, which duck typing would accept here
    and fail on elsewhere.

    Raises:
        TypeError: One of them has another type.
    """
    for name, table, form in (
        ("rules", rules, "{pattern: rule}"),
        ("groups", groups, "{name: l0func.group(...)}"),
    ):
        if not (table is None or _is_mapping(table)):
            raise TypeError(f"{name} are {form}; got {type(table).__name__}.")
    _check_instances(groups or {}, Group, "A group is made by l0func.group(...)")
    chosen = distribution if _is_mapping(distribution) else {"*": distribution}
    _check_instances(
        chosen, GateDistribution, "A distribution is an instance, such as HardConcrete()"
    )


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _check_instances(table: Mapping[str, Any], kind: type, rule: str) -> None:
    for name, value in table.items():
        if not isinstance(value, kind):
            raise TypeError(f"{rule}; {name!r} has {value!r}.")
