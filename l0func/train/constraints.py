"""Constraints: some parameters, or the cost of a call with them, and the share that may stay.

:func:`l0func.lagrangian` builds one constraint for each pattern in its target, and its controller
adjusts a multiplier for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from l0func.costs.latency import LatencyTable, check_table, ms_of, whole_units
from l0func.costs.macs import MacCounts, check_counts, macs_of_each
from l0func.costs.terms import Term, entry_term, totals
from l0func.gates.checks import Gates
from l0func.internal import names
from l0func.spec.plan import GateSpec, ParameterPlan
from l0func.spec.rules import has_sharers
from l0func.train.numbers import check_number, whole_number

Measure = Literal["density", "l0", "macs", "ms"]
Target: TypeAlias = float | Mapping[str, float]

MEASURES: tuple[Measure, ...] = ("density", "l0", "macs", "ms")


class Constraint(NamedTuple):
    """Some parameters, or the cost of a call with them, and the share that may stay."""

    parameters: tuple[ParameterPlan, ...]
    costs: MacCounts | LatencyTable | None
    """Multiply-adds or milliseconds; None if parameter entries are counted."""

    target: float
    """A share of the dense network, in (0, 1)."""

    @property
    def size(self) -> int:
        """The number of entries, all parameters together."""
        return sum(p.size for p in self.parameters)

    @property
    def gates(self) -> list[str]:
        """The gate vectors on its parameters."""
        found: dict[str, None] = {}
        for p in self.parameters:
            found.update(dict.fromkeys(binding.gate for binding in p.bindings))
        if isinstance(self.costs, LatencyTable):
            # No other gate changes a size, and raising it would not help.
            return [name for name in found if name in self.costs.groups]
        return list(found)

    def terms(self, opens: Gates) -> list[Term]:
        """The entries of gated parameters that stay when each gate is open by its weight."""
        gated = [p for p in self.parameters if p.bindings]
        return [entry_term(p.spread(opens, owned=True), p) for p in gated]

    @property
    def ungated(self) -> int:
        """The number of entries without gates."""
        return sum(p.size for p in self.parameters if not p.bindings)

    def share(self, opens: Gates, spec: GateSpec) -> Tensor:
        """The share that stays when each gate is open by its weight in ``opens``."""
        return shares_of([self], opens, spec)[0]

    def largest_step(self, spec: GateSpec) -> float:
        """The largest share that one gate opens or closes; for milliseconds at a few widths."""
        # Entries and multiply-adds of a gate are the most where all other gates are open, or all
        # but the gates that share a slice with it.
        widths = (1.0, 0.75, 0.5, 0.25) if isinstance(self.costs, LatencyTable) else (1.0,)
        steps: list[float] = []
        for width in widths:
            opens = {
                gate.name: torch.full(gate.shape, width, dtype=torch.float64, device="cpu")
                for gate in spec.gates
            }
            alone = [{name: torch.zeros_like(opens[name])} for name in self._sharing]
            for others_closed in ({}, *alone):
                slopes = torch.func.grad(partial(self.share, spec=spec))(opens | others_closed)
                steps.extend(float(t.max()) for t in slopes.values() if t.numel())
        return max(steps)

    @property
    def _sharing(self) -> set[str]:
        """The gate vectors in which several gates share a slice."""
        bindings = [binding for p in self.parameters for binding in p.bindings]
        return {binding.gate for binding in bindings if has_sharers(binding.rule)}


def shares_of(constraints: Sequence[Constraint], opens: Gates, spec: GateSpec) -> list[Tensor]:
    """For each constraint the share that stays when each gate is open by its weight in ``opens``.

    All constraints count the same: entries, multiply-adds or milliseconds. For gates that are
    DTensors it is a collective, one for all constraints.
    """
    costs = [constraint.costs for constraint in constraints]
    tables = [table for table in costs if isinstance(table, LatencyTable)]
    if tables:
        opens = whole_units(opens, tables)
        return [ms_of(opens, spec, table) / table.dense for table in tables]
    counts = [own for own in costs if isinstance(own, MacCounts)]
    if counts:
        macs = macs_of_each(counts, opens, spec)
        return [open_macs / own.total for open_macs, own in zip(macs, counts, strict=True)]
    like = next(iter(opens.values()))
    start = torch.zeros((), dtype=like.dtype, device=like.device)
    kept = totals([constraint.terms(opens) for constraint in constraints], start)
    pairs = zip(kept, constraints, strict=True)
    return [(total + constraint.ungated) / constraint.size for total, constraint in pairs]


def check_measure(
    measure: str, counts: MacCounts | None, table: LatencyTable | None, spec: GateSpec
) -> None:
    """Refuse costs that are missing, those of another measure, and another network's table."""
    if measure not in MEASURES:
        raise ValueError(
            f"measure is one of {MEASURES}; got {measure!r}{names.closest(measure, MEASURES)}."
        )
    if counts is not None:
        check_counts(counts)
    if (counts is None) == (measure == "macs"):
        raise ValueError(
            "counts, from l0func.count_macs, go with measure='macs', and with nothing else."
        )
    if (table is None) == (measure == "ms"):
        raise ValueError(
            "A table, from l0func.latency_table, goes with measure='ms', and with nothing else."
        )
    if table is not None:
        check_table(table, spec)


def constraints_of(
    target: Target, spec: GateSpec, measure: Measure, costs: MacCounts | LatencyTable | None
) -> tuple[Constraint, ...]:
    """One constraint for each pattern in a target; for a number, one over all parameters.

    Raises:
        ValueError: There is no gate or no pattern; a pattern matches nothing; or a target is
            outside its range or cannot be reached.
    """
    by_pattern = target if isinstance(target, Mapping) else {"*": target}
    if not by_pattern or not spec.gates:
        raise ValueError(
            "A target needs gates to reach it with, and at least one pattern; got none."
        )
    names.check_patterns(by_pattern, [p.path for p in spec.parameters], "parameter")
    found: list[Constraint] = []
    for pattern, value in by_pattern.items():
        _check_target(pattern, value)
        found.append(_constraint(pattern, float(value), spec, measure, costs))
    return tuple(found)


def _check_target(pattern: str, value: Any) -> None:
    """Refuse a target that is no number; several may be meant for the members of a sweep."""
    try:
        check_number(f"The target of {pattern!r}", value)
    except TypeError as error:
        if not isinstance(value, Tensor | list | tuple):
            raise
        raise TypeError(
            f"{error} For a target for each member of a sweep, stack states with controls of "
            "their own: l0func.stack([state._replace(control=l0func.lagrangian(spec, t).init("
            "gates)) for t in targets])."
        ) from None


def _constraint(
    pattern: str,
    value: float,
    spec: GateSpec,
    measure: Measure,
    costs: MacCounts | LatencyTable | None,
) -> Constraint:
    paths = set(names.matching(pattern, [p.path for p in spec.parameters]))
    chosen = tuple(p for p in spec.parameters if p.path in paths)
    _check_has_entries(chosen, pattern)
    if costs is not None and len(chosen) < len(spec.parameters):
        costs = costs.only(p.path for p in chosen)
    constraint = Constraint(chosen, costs, value)
    if measure == "l0":
        constraint = constraint._replace(target=value / constraint.size)
    _check_range(constraint, pattern, value, measure)
    _check_has_costs(constraint, pattern)
    _check_reachable(constraint, pattern, value, spec, measure)
    return constraint


def _check_has_entries(chosen: Sequence[ParameterPlan], pattern: str) -> None:
    if not sum(p.size for p in chosen):
        listing = ", ".join(f"{p.path!r} of shape {p.shape}" for p in chosen[:4])
        raise ValueError(
            f"The parameters that match {pattern!r} have no entries, so a share of them cannot be "
            f"a target: {listing}."
        )


def _check_has_costs(constraint: Constraint, pattern: str) -> None:
    costs = constraint.costs
    is_time = isinstance(costs, LatencyTable)
    if costs is not None and not (costs.dense if is_time else costs.total):
        what = "milliseconds that change with units" if is_time else "multiply-adds"
        raise ValueError(
            f"The parameters that match {pattern!r} take no {what}, so a share of these "
            "cannot be a target."
        )


def _check_range(constraint: Constraint, pattern: str, value: float, measure: Measure) -> None:
    if 0.0 < constraint.target < 1.0:
        return
    allowed = "a share of the dense network in (0, 1)"
    if measure == "l0":
        allowed = f"a number of entries between 0 and {constraint.size}"
    if isinstance(constraint.costs, LatencyTable):
        allowed += f", which takes {constraint.costs.dense:.4g} ms"
    raise ValueError(f"The target of {pattern!r} is {allowed}; got {value}.")


def _check_reachable(
    constraint: Constraint, pattern: str, value: float, spec: GateSpec, measure: Measure
) -> None:
    closed = {gate.name: torch.zeros(gate.shape, dtype=torch.float64) for gate in spec.gates}
    bound = float(constraint.share(closed, spec))
    if constraint.target >= bound:
        return
    if isinstance(constraint.costs, LatencyTable):
        dense = constraint.costs.dense
        raise ValueError(
            f"The target of {pattern!r} is {value}, or {value * dense:.4g} ms; but the fewest "
            f"units still take {bound:.4g} of the dense network's {dense:.4g} ms. Raise the "
            "target, or find more units to remove."
        )
    amount = f"{bound:.4g} of it"
    if measure == "l0":
        amount = f"{bound * constraint.size:.0f} entries"
    raise ValueError(
        f"The target of {pattern!r} is {value}, but with every gate closed {amount} is still "
        f"there: {_ungated(constraint, closed)} have entries without gates. "
        "Gate them, let groups own them, exclude them by a pattern, or raise the target."
    )


def check_floor(floor: int, constraints: Sequence[Constraint], spec: GateSpec) -> int:
    """The floor as an integer, checked against the targets.

    Raises:
        TypeError: It is no integer.
        ValueError: It is negative, or keeps more than a target.
    """
    number = whole_number("floor", floor)
    if number < 0:
        raise ValueError(f"floor is a number of gates, at least 0; got {number}.")
    least: Gates = {}
    for gate in spec.gates:
        first = torch.arange(gate.size, device="cpu") < number
        least[gate.name] = first.reshape(gate.shape).double()
    for constraint in constraints:
        bound = float(constraint.share(least, spec))
        if number and bound > constraint.target:
            raise ValueError(
                f"With floor={number} open gates in each gate vector some {bound:.4g} stays, more "
                f"than the target of {constraint.target:.4g}. Lower the floor or raise the target."
            )
    return number


def _ungated(constraint: Constraint, closed: Gates) -> str:
    """The first four parameters with entries that no gate removes, quoted."""
    paths = [repr(p.path) for p in constraint.parameters if _stays(p, closed)]
    listing = ", ".join(paths[:4])
    return f"{listing} and others" if len(paths) > 4 else listing


def _stays(p: ParameterPlan, opens: Gates) -> bool:
    """Whether a parameter has entries that these gates leave."""
    return not p.bindings or bool(p.spread(opens, owned=True).any())


def check_control_state(state: Any, kind: type[Any], count: int) -> None:
    """Refuse anything but the state of a controller with so many constraints.

    Args:
        state: What the user gave.
        kind: The class of a controller's state.
        count: The number of constraints.

    Raises:
        TypeError: It is something else, such as gates.
        ValueError: It has another number of targets.
    """
    if not isinstance(state, kind):
        raise TypeError(
            "The first argument is a controller's state, from control.init(gates) or "
            f"state.control of a training; got {type(state).__name__}. The second is gates, as in "
            "control.penalty(state, gates)."
        )
    if state.target.shape != (count,):
        raise ValueError(
            f"This controller has {count} constraints and the state has targets of shape "
            f"{tuple(state.target.shape)}: it is another controller's, or a stack, which "
            "training(in_dims=...) maps."
        )
