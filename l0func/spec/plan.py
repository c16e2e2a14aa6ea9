"""The gate spec as a value: gate vectors, and the bindings that place them on parameters."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from l0func import distributions
from l0func.distributions import GateDistribution
from l0func.internal import names
from l0func.internal.names import stream
from l0func.spec.rules import Rule, Shape, rule_from_dict

GroupSlices: TypeAlias = tuple[tuple[str, tuple[Rule, ...]], ...]
"""Pairs of a path and the rules on it."""


@dataclass(frozen=True)
class GateVector:
    """Gates under one name, with their shape, distribution and dtype."""

    name: str
    shape: Shape
    distribution: GateDistribution
    dtype: torch.dtype

    stream: int = field(init=False, repr=False, compare=False)
    """The number that is folded into a key for this gate."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stream", stream(self.name))

    @property
    def size(self) -> int:
        """Number of gates."""
        return torch.Size(self.shape).numel()

    def to_dict(self) -> dict[str, Any]:
        """The gate vector as JSON values, for :meth:`from_dict`."""
        own = {"name": self.name, "shape": self.shape, "dtype": _dtype_name(self.dtype)}
        return {**own, **self.distribution.to_dict()}

    @staticmethod
    def from_dict(record: Mapping[str, Any], /) -> GateVector:
        """The gate vector that :meth:`to_dict` wrote."""
        distribution = dict(record)
        name, shape = distribution.pop("name"), tuple(distribution.pop("shape"))
        dtype = getattr(torch, distribution.pop("dtype"))
        return GateVector(name, shape, distributions.from_dict(distribution), dtype)


@dataclass(frozen=True)
class Binding:
    """A gate vector on one tensor, by a rule: it multiplies the slices, or only owns them."""

    gate: str
    rule: Rule
    multiplies: bool

    def to_dict(self) -> dict[str, Any]:
        """The binding as JSON values, for :meth:`from_dict`."""
        return {"gate": self.gate, "multiplies": self.multiplies, **self.rule.to_dict()}

    @staticmethod
    def from_dict(record: Mapping[str, Any], /) -> Binding:
        """The binding that :meth:`to_dict` wrote."""
        rule = dict(record)
        gate, multiplies = rule.pop("gate"), rule.pop("multiplies")
        return Binding(gate, rule_from_dict(rule), multiplies)

    def __str__(self) -> str:
        role = "×" if self.multiplies else "owned by"
        return f"{role} {self.gate} {self.rule}"


@dataclass(frozen=True)
class ParameterPlan:
    """The spec's part for one parameter (or owned buffer): path, shape, dtype and bindings."""

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
        r"""Spread gate values over the parameter's entries, and multiply them where gates meet.

        .. math:: s_j = \prod_{g \text{ on } j} v_g

        for each entry :math:`j`, over the *distinct* gates on it. Sampled gates with
        ``owned=False`` give the parameter's mask. Open probabilities with ``owned=True`` give the
        probability that an entry is open. At least one of the parameter's gates must count.

        Args:
            values: ``{gate name: value of each gate}``, shaped as the gate vectors.
            owned: Whether a gate counts where it owns an entry without multiplying it.
            owners: ``{gate name: value of each gate}`` to use there; by default ``values``.

        Returns:
            The product, of the parameter's rank and broadcastable to it; 1 at an entry without
            gates.
        """
        product: Tensor | None = None
        seen: dict[str, list[Rule]] = {}
        for binding in self._counted(owned):
            source = values if binding.multiplies or owners is None else owners
            factor = binding.rule.spread(source[binding.gate], self.shape)
            earlier = seen.setdefault(binding.gate, [])
            for rule in earlier:
                factor = self._once(factor, binding.rule, rule)
            earlier.append(binding.rule)
            product = factor if product is None else product * factor
        assert product is not None
        return product

    def _counted(self, owned: bool) -> list[Binding]:
        """The multiplying bindings, followed by the owning ones if these count."""
        # Multipliers first: where a gate both multiplies and owns an entry, the entry has the
        # multiplier's value.
        multipliers = [binding for binding in self.bindings if binding.multiplies]
        if not owned:
            return multipliers
        return multipliers + [binding for binding in self.bindings if not binding.multiplies]

    def _once(self, factor: Tensor, rule: Rule, earlier: Rule) -> Tensor:
        """Put 1 into a rule's factor at entries that have the same gate by an earlier rule."""
        # A unit meets itself on its own recurrent weight, as an output and as an input.
        repeated = rule.index(self.shape) == earlier.index(self.shape)
        return torch.where(repeated.to(factor.device), 1.0, factor)

    @property
    def size(self) -> int:
        """Number of entries."""
        return torch.Size(self.shape).numel()

    @property
    def multiplied(self) -> bool:
        """Whether any gate scales the parameter."""
        return any(binding.multiplies for binding in self.bindings)

    def to_dict(self) -> dict[str, Any]:
        """The plan for the parameter as JSON values, for :meth:`from_dict`."""
        return {
            "path": self.path,
            "shape": self.shape,
            "dtype": _dtype_name(self.dtype),
            "bindings": [binding.to_dict() for binding in self.bindings],
        }

    @staticmethod
    def from_dict(record: Mapping[str, Any], /) -> ParameterPlan:
        """The plan for a parameter that :meth:`to_dict` wrote."""
        dtype = getattr(torch, record["dtype"])
        bindings = tuple(Binding.from_dict(binding) for binding in record["bindings"])
        return ParameterPlan(record["path"], tuple(record["shape"]), dtype, bindings)

    def __str__(self) -> str:
        bound = ", ".join(map(str, self.bindings))
        return f"{self.path} {self.shape}: {bound or 'not gated'}"


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Group:
    """One gate vector over slices of several parameters, made by :func:`l0func.group`.

    Attributes:
        multiplies: The multiplied slices.
        owns: The owned slices.
        attrs: ``{module attribute: amount for one unit}``, as JSON text; without the closed units
            the attributes become lower.
    """

    multiplies: GroupSlices
    owns: GroupSlices = ()
    attrs: str = "{}"


@dataclass(frozen=True)
class GateSpec:
    """A static plan of the gates on named parameters: hashable, printable, and JSON both ways.

    Build it with :func:`l0func.gate_spec`.

    Attributes:
        gates: The gate vectors.
        parameters: A plan for each parameter, gated or not.
        buffers: A plan for each buffer that gates own.
        attrs: For each group its name, and its ``attrs`` as JSON text.
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
        return json.dumps(record)

    @staticmethod
    def from_json(text: str, /) -> GateSpec:
        """The spec that :meth:`to_json` wrote.

        Raises:
            ValueError: The text is no spec, or a rule or a distribution is unknown.
        """
        record: Any = json.loads(text)
        fields = {"gates", "parameters", "buffers", "attrs"}
        if not _is_mapping(record) or not fields <= record.keys():
            raise ValueError(f"A spec's text comes from GateSpec.to_json; got {text[:60]!r}.")
        gates = [GateVector.from_dict(gate) for gate in record["gates"]]
        parameters = [ParameterPlan.from_dict(p) for p in record["parameters"]]
        buffers = [ParameterPlan.from_dict(p) for p in record["buffers"]]
        attrs = [(name, values) for name, values in record["attrs"]]
        return GateSpec(tuple(gates), tuple(parameters), tuple(buffers), tuple(attrs))

    def __str__(self) -> str:
        total = sum(gate.size for gate in self.gates)
        lines = [f"  {p}" for p in self.parameters]
        return "\n".join([f"GateSpec: {total} gates", *lines])


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
