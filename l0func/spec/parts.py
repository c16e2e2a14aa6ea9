"""The parts of a gate spec: gate vectors, bindings, the plan for one parameter, and groups."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from l0func.distributions import GateDistribution
from l0func.internal.names import stream
from l0func.internal.sharding import is_dtensor
from l0func.spec.rules import Rule, Shape
from l0func.spec.sharded_spread import Factor, spread_shards

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
        """The gate vector as JSON values, for :func:`l0func.spec.from_file.spec_parts`."""
        own = {"name": self.name, "shape": self.shape, "dtype": _dtype_name(self.dtype)}
        return {**own, **self.distribution.to_dict()}


@dataclass(frozen=True)
class Binding:
    """A gate vector on one tensor, by a rule: it multiplies the slices, or only owns them."""

    gate: str
    rule: Rule
    multiplies: bool

    def to_dict(self) -> dict[str, Any]:
        """The binding as JSON values, for :func:`l0func.spec.from_file.spec_parts`."""
        return {"gate": self.gate, "multiplies": self.multiplies, **self.rule.to_dict()}

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
        counted = self._counted(owned)
        if any(is_dtensor(values[binding.gate]) for binding in counted):
            return spread_shards(self.path, self.shape, self._factors(counted, values, owners))
        product: Tensor | None = None
        seen: dict[str, list[Rule]] = {}
        for binding in counted:
            source = values if binding.multiplies or owners is None else owners
            factor = binding.rule.spread(source[binding.gate], self.shape)
            earlier = seen.setdefault(binding.gate, [])
            for rule in earlier:
                factor = self._once(factor, binding.rule, rule)
            earlier.append(binding.rule)
            product = factor if product is None else product * factor
        assert product is not None
        return product

    def spread_levels(self, levels: Mapping[str, Tensor]) -> Tensor:
        """Spread levels over the parameter's entries: the lowest where gates meet.

        Args:
            levels: ``{gate name: level of each gate}``, DTensors of numbers in [0, 1]. A gate is
                open beyond its level, and so are all gates on an entry beyond the lowest of them.

        Returns:
            A DTensor as from :meth:`spread`.
        """
        factors = self._factors(self._counted(owned=True), levels, None)
        wanted = [factor._replace(is_level=True) for factor in factors]
        return spread_shards(self.path, self.shape, wanted)

    def _factors(
        self,
        counted: list[Binding],
        values: Mapping[str, Tensor],
        owners: Mapping[str, Tensor] | None,
    ) -> list[Factor]:
        factors: list[Factor] = []
        seen: dict[str, tuple[Rule, ...]] = {}
        for binding in counted:
            gate, rule, multiplies = binding.gate, binding.rule, binding.multiplies
            source = values if multiplies or owners is None else owners
            earlier = seen.get(gate, ())
            factors.append(Factor(gate, rule, source[gate], multiplies, earlier))
            seen[gate] = (*earlier, rule)
        return factors

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

    @property
    def has_owners(self) -> bool:
        """Whether any gate only owns entries: such gates lie as the parameters they multiply."""
        return any(not binding.multiplies for binding in self.bindings)

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON values, for :func:`l0func.spec.from_file.spec_parts`."""
        return {
            "path": self.path,
            "shape": self.shape,
            "dtype": _dtype_name(self.dtype),
            "bindings": [binding.to_dict() for binding in self.bindings],
        }

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
        attrs: ``{module attribute: amount for one unit}``; without the closed units the attributes
            become lower.
    """

    multiplies: GroupSlices
    owns: GroupSlices = ()
    attrs: dict[str, Any] = field(default_factory=dict[str, Any], hash=False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Groups that were pickled by earlier versions hold JSON text.
        attrs = state["attrs"]
        self.__dict__.update(state, attrs=json.loads(attrs) if isinstance(attrs, str) else attrs)

    def paths(self) -> list[str]:
        """The paths of the tensors that have slices, then those of the attributes."""
        factors = [
            cast("dict[str, Any]", n)["of"] for n in self.attrs.values() if isinstance(n, dict)
        ]
        slices = [path for path, _ in (*self.multiplies, *self.owns)]
        return [*slices, *self.attrs, *factors]

    def renamed(self, new_path: Callable[[str], str]) -> Group:
        """The group with other paths for its tensors and attributes."""
        multiplies = tuple((new_path(path), rules) for path, rules in self.multiplies)
        owns = tuple((new_path(path), rules) for path, rules in self.owns)
        attrs = {new_path(path): _moved(n, new_path) for path, n in self.attrs.items()}
        return Group(multiplies, owns, attrs)


def _moved(amount: Any, new_path: Callable[[str], str]) -> Any:
    """An attribute's amount; a factor names the tensor that it counts."""
    if not isinstance(amount, dict):
        return amount
    factor = cast("dict[str, Any]", amount)
    return {**factor, "of": new_path(factor["of"])}
