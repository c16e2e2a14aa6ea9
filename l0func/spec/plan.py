"""The gate spec as a value: gate vectors, and the bindings that place them on parameters."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from l0func.distributions import GateDistribution
from l0func.internal import names
from l0func.spec.from_file import spec_parts
from l0func.spec.parts import Binding, GateVector, Group, GroupSlices, ParameterPlan

__all__ = [
    "Binding",
    "GateSpec",
    "GateVector",
    "Group",
    "GroupSlices",
    "ParameterPlan",
    "check_distributions",
    "check_instances",
    "check_spec",
    "plain_number",
    "spec_from",
]


@dataclass(frozen=True)
class GateSpec:
    """A static plan of the gates on named parameters: hashable, printable, and JSON both ways.

    Build it with :func:`l0func.gate_spec`.

    Attributes:
        gates: The gate vectors.
        parameters: A plan for each parameter, gated or not.
        buffers: A plan for each buffer that gates own.
        attrs: For each group its name, and its ``attrs`` as JSON text.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> params = {"w": torch.ones(2, 3)}
        >>> spec = l0.gate_spec(params, {"w": l0.axis(0)})
        >>> [(gate.name, gate.size) for gate in spec.gates]
        [('w', 2)]
        >>> l0.GateSpec.from_json(spec.to_json()) == spec
        True
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
            A spec with the same gate names and shapes, for the same gates.

        Raises:
            TypeError: The argument is neither a distribution nor a table of them.
            ValueError: A pattern matches no gate, or a gate no pattern.
        """
        check_distributions(distribution)
        gate_names = [gate.name for gate in self.gates]
        chosen = names.per_path(distribution, gate_names, "a distribution", "gate")
        changed = tuple(replace(gate, distribution=chosen[gate.name]) for gate in self.gates)
        return replace(self, gates=changed)

    def to_json(self) -> str:
        """The spec as text, for :meth:`from_json`."""
        record: dict[str, Any] = {}
        record["gates"] = [gate.to_dict() for gate in self.gates]
        record["parameters"] = [p.to_dict() for p in self.parameters]
        record["buffers"] = [p.to_dict() for p in self.buffers]
        record["attrs"] = self.attrs
        return json.dumps(record, default=plain_number)

    @staticmethod
    def from_json(text: str, /) -> GateSpec:
        """The spec that :meth:`to_json` wrote.

        Args:
            text: The text. It is checked like the arguments of :func:`l0func.gate_spec`.

        Raises:
            TypeError: It is no text.
            ValueError: The text is no spec; the message names the place in it and the rule.
        """
        return spec_from(text, "spec")

    def __str__(self) -> str:
        total = sum(gate.size for gate in self.gates)
        lines = [f"  {p}" for p in self.parameters]
        return "\n".join([f"GateSpec: {total} gates", *lines])


def spec_from(text: Any, source: str) -> GateSpec:
    """The spec in a text.

    Args:
        text: The text.
        source: The text's origin, such as the path of a file; the message begins with it.

    Raises:
        TypeError: It is no text.
        ValueError: The text is no spec.
    """
    if not isinstance(text, str | bytes):
        raise TypeError(f"A spec's text comes from GateSpec.to_json; got {type(text).__name__}.")
    try:
        return GateSpec(*spec_parts(text))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def check_spec(spec: Any) -> None:
    """Refuse anything but a spec.

    Raises:
        TypeError: ``spec`` has another type.
    """
    if not isinstance(spec, GateSpec):
        raise TypeError(
            f"A gate spec comes from l0func.gate_spec; got {type(spec).__name__}. "
            "Groups go in as gate_spec(params, groups=groups)."
        )


def check_distributions(distribution: Any) -> None:
    """Refuse anything but a distribution or a table with distributions.

    Raises:
        TypeError: A value has another type.
    """
    table = distribution if _is_mapping(distribution) else {"*": distribution}
    rule = "A distribution is an instance, such as HardConcrete()"
    check_instances(table, GateDistribution, rule)
    for value in table.values():
        if not hasattr(value, "quadratures"):
            kind = type(value).__name__
            raise TypeError(
                f"{kind} was not built whole: decorate it with @dataclass(frozen=True), and end "
                f"its own __post_init__, if it has one, with super().__post_init__()."
            )


def plain_number(value: Any) -> int | float:
    """A number of another library, such as numpy's, as Python's own."""
    if hasattr(value, "__index__"):
        return operator.index(value)
    if hasattr(value, "__float__"):
        return float(value)
    raise TypeError(f"A spec holds numbers, texts and bools; got {value!r}.")


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def check_instances(table: Mapping[str, Any], kind: type, rule: str) -> None:
    """Refuse a table that holds a value with another type.

    Args:
        table: ``{name: value}``.
        kind: The type that every value must have.
        rule: How the message begins.

    Raises:
        TypeError: A value has another type.
    """
    for name, value in table.items():
        if not isinstance(value, kind):
            raise TypeError(f"{rule}; {name!r} has {value!r}.")
