"""The parameters of one row, from the parts of parameters and gates in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from l0func.engine.entry_gates import EntryGates, SumLog
from l0func.engine.layout import Layout
from l0func.engine.ops import HANDLERS
from l0func.engine.own_draws import StreamPart, own_draws
from l0func.engine.own_parameter import PartPlace, own_parameter
from l0func.engine.parameter import stand_in
from l0func.engine.stand_ins import StandIns
from l0func.gates.masks import gate_keys
from l0func.internal import tree
from l0func.internal.kinds import real_dtype
from l0func.internal.sharding import Owned
from l0func.internal.shards import taken
from l0func.internal.tree import Pytree
from l0func.spec.parts import Binding, ParameterPlan
from l0func.spec.plan import GateSpec
from l0func.spec.rules import Rule
from l0func.spec.sharded_spread import Factor, spread_on_own

Own = tuple[Owned, ...]
"""For each dimension of a tensor the indices of this process's part."""


class Use(NamedTuple):
    """A gate vector on a parameter, and the dimensions of the mesh that cut the parameter only.

    The processes along these have each a term of the gradient in the same gates.
    """

    gate: str
    summed: tuple[int, ...]

    @property
    def name(self) -> str:
        """A name among all uses."""
        return "/".join([self.gate, *map(str, self.summed)])


class Parts(NamedTuple):
    """What this process holds of a network's tensors."""

    own: dict[str, Own]
    """By parameter."""

    places: dict[str, PartPlace]
    """The parameters of which it holds a part only."""

    held: dict[str, Own]
    """By gate vector."""

    uses: dict[tuple[str, str], Use]
    """By parameter and gate vector."""


class OwnStandIns:
    """A function ``(key, params, gates) -> params`` of parts.

    Args:
        stand_ins: The same function of whole tensors.
        parts: What this process holds.
    """

    def __init__(self, stand_ins: StandIns, parts: Parts) -> None:
        self.spec: GateSpec = stand_ins.spec
        self.local_reparam = stand_ins.local_reparam
        self.layouts = stand_ins.layouts
        self.entries = {gate.name for gate in stand_ins.per_entry}
        self.parts = parts
        self.gates = {gate.name: gate for gate in self.spec.gates}

    def __call__(self, key: Tensor, params: Pytree, gates: Pytree) -> Pytree:
        """The parameters under the masks of one key.

        Args:
            key: A key, shape ``(2,)``.
            params: The parts of the parameters.
            gates: The parts of the gate vectors, by the name of their use.
        """
        tensors, locations = tree.leaves(params), tree.leaves(gates, "gates")
        row = _OneRow(self, self._keys(key, locations), locations)
        for plan in self.spec.parameters:
            path = plan.path
            if plan.multiplied:
                tensors[path] = row.masked(plan, tensors[path])
            if path in self.parts.places:
                tensors[path] = own_parameter(tensors[path], self.parts.places[path], path)
        return tree.rebuild(params, tensors)

    def _keys(self, key: Tensor, locations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The key of every gate vector that multiplies a parameter."""
        found = {use.gate: locations[use.name] for use in self.parts.uses.values()}
        wanted = [self.gates[name] for name in found]
        if not wanted:
            return {}
        keys = gate_keys(key, found, wanted)
        return {gate.name: keys[number] for number, gate in enumerate(wanted)}


class _OneRow:
    """The draws of one row; each use is drawn once."""

    def __init__(
        self, shared: OwnStandIns, keys: dict[str, Tensor], locations: Mapping[str, Tensor]
    ) -> None:
        self.shared = shared
        self.parts = shared.parts
        self.keys = keys
        self.locations = locations
        self.drawn: dict[Use, Tensor] = {}
        self.sums = SumLog()

    def masked(self, plan: ParameterPlan, weight: Tensor) -> Tensor:
        """A part of a parameter with its gates: multiplied, or a stand-in."""
        layout = self.shared.layouts.get(plan.path)
        if layout is None:
            return weight * self._mask(plan).to(real_dtype(plan.dtype))
        binding = layout.per_entry
        entries = None if binding is None else self._entry_gates(plan, binding)
        return stand_in(weight, self._scales(layout), entries, HANDLERS, plan.path)

    def _values(self, use: Use) -> Tensor:
        if use not in self.drawn:
            gate = self.shared.gates[use.gate]
            part = StreamPart(self.parts.held[use.gate], gate.shape)
            own = self.keys[use.gate], self.locations[use.name], part
            self.drawn[use] = own_draws(gate.distribution, *own)
        return self.drawn[use]

    def _spread(self, plan: ParameterPlan, binding: Binding, earlier: Sequence[Rule]) -> Tensor:
        """A gate vector's values on this process's entries, of the parameter's rank."""
        values = self._values(self.parts.uses[plan.path, binding.gate])
        factor = Factor(binding.gate, binding.rule, values, True, tuple(earlier))
        held, own = self.parts.held[binding.gate], self.parts.own[plan.path]
        return spread_on_own(factor, held, own, plan.shape)

    def _mask(self, plan: ParameterPlan) -> Tensor:
        product: Tensor | None = None
        seen: dict[str, list[Rule]] = {}
        for binding in plan.bindings:
            if binding.multiplies:
                earlier = seen.setdefault(binding.gate, [])
                factor = self._spread(plan, binding, earlier)
                earlier.append(binding.rule)
                product = factor if product is None else product * factor
        assert product is not None
        return product

    def _scales(self, layout: Layout) -> tuple[Tensor | None, ...]:
        """For each dimension the product over the gates along it, or None."""
        plan = layout.parameter
        own, dtype = self.parts.own[plan.path], real_dtype(plan.dtype)
        found: list[Tensor | None] = [None] * len(plan.shape)
        for dim, binding in layout.along_dim:
            spread = self._spread(plan, binding, ()).reshape(-1)
            factor = spread.expand(len(own[dim])).to(dtype)
            known = found[dim]
            found[dim] = factor if known is None else known * factor
        return tuple(found)

    def _entry_gates(self, plan: ParameterPlan, binding: Binding) -> EntryGates:
        gate, use = self.shared.gates[binding.gate], self.parts.uses[plan.path, binding.gate]
        own, held = self.parts.own[plan.path], self.parts.held[binding.gate]
        log_alpha = self.locations[use.name]
        for dim in range(len(gate.shape)):
            log_alpha = taken(log_alpha, dim, held[dim], own[dim])
        part = StreamPart(own[: len(gate.shape)], gate.shape)
        is_part = plan.path in self.parts.places
        return EntryGates(
            gate.distribution,
            self.keys[gate.name],
            log_alpha,
            self.sums,
            self.shared.local_reparam,
            part=part if is_part else None,
        )
