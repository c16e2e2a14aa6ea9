"""A warning where every gate of a parameter is closed: nothing of the parameter is left."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from l0func.gates.checks import ESTIMATORS, Gates
from l0func.internal.context import compiling, known_values
from l0func.internal.shard_sums import full_sums
from l0func.internal.watch import listed_names, warn_user
from l0func.spec.plan import GateSpec, ParameterPlan


class Decision(NamedTuple):
    """The estimator or density that closes gates at test time."""

    name: str
    """An estimator, or a density."""

    closes: Collection[str]
    """Parameters that it was asked to close."""

    keeps_all: bool = False
    """Whether it was asked to close nothing."""

    def words(self) -> str:
        """Its name for a sentence: under an estimator, or at a density."""
        return f"under {self.name!r}" if self.name in ESTIMATORS else f"at {self.name}"


def warn_if_closed(values: Gates, spec: GateSpec, decision: Decision) -> None:
    """Warn, with their names, of parameters without an open entry.

    A parameter behind one single gate is left out: such a gate is there to remove it. Under a
    transform or a compiler the values are unknown, and there is no warning.

    Args:
        values: ``{gate name: value of each gate}``, 0 where it is closed.
        spec: The gate spec.
        decision: The estimator or density that closed them.
    """
    if compiling():
        return
    closed = _closed_paths(values, spec, decision)
    if closed:
        warn_user(
            f"All gates of {listed_names(closed)} are closed {decision.words()}: nothing of "
            "them is left, and what reads them gets zeros. Usually the price is too high: train "
            "with a smaller lam, or towards a target (l0func.lagrangian); with a density, give "
            "these parameters their own pattern. l0func.summary shows how many entries are "
            "expected to be open."
        )


def _closed_paths(values: Gates, spec: GateSpec, decision: Decision) -> list[str]:
    opens = {name: (z != 0).float() for name, z in values.items()}
    watched = [p for p in spec.gated() if p.path not in decision.closes]
    gates_on = {p.path: {binding.gate for binding in p.bindings} for p in watched}
    some_open = _with_open_gates(opens, gates_on)
    unsure: list[ParameterPlan] = []
    for p in watched:
        found = gates_on[p.path]
        several = sum(values[name].numel() for name in found) > 1
        # Every gate has an entry in each of its parameters.
        is_open = len(found) == 1 and found <= some_open
        if several and not is_open:
            unsure.append(p)
    counts = full_sums(p.spread(opens, owned=True) != 0 for p in unsure)
    return [p.path for p, n in zip(unsure, counts, strict=True) if known_values(n) == 0]


def _with_open_gates(opens: Gates, gates_on: Mapping[str, set[str]]) -> set[str]:
    """The gate vectors with an open gate, of those that are alone on a parameter."""
    alone: dict[str, None] = {}
    for found in gates_on.values():
        if len(found) == 1:
            alone.update(dict.fromkeys(found))
    sums = full_sums(opens[name] for name in alone)
    return {name for name, n in zip(alone, sums, strict=True) if known_values(n > 0)}
