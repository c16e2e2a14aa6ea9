"""A warning where every gate of a parameter is closed: nothing of the parameter is left."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from l0func.gates.checks import ESTIMATORS, Gates
from l0func.internal.context import compiling, known_values
from l0func.internal.shards import full_sum
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
    opens = {name: (z != 0).float() for name, z in values.items()}
    sizes = {gate.name: gate.size for gate in spec.gates}
    closed: list[str] = []
    for p in spec.gated():
        if p.path not in decision.closes and _is_closed(p, opens, sizes):
            closed.append(p.path)
    if closed:
        warn_user(
            f"All gates of {listed_names(closed)} are closed {decision.words()}: nothing of "
            "them is left, and what reads them gets zeros. Usually the price is too high: train "
            "with a smaller lam, or towards a target (l0func.lagrangian); with a density, give "
            "these parameters their own pattern. l0func.summary shows how many entries are "
            "expected to be open."
        )


def _is_closed(p: ParameterPlan, opens: Gates, sizes: Mapping[str, int]) -> bool:
    on_it = {binding.gate for binding in p.bindings}
    if sum(sizes[name] for name in on_it) < 2:
        return False
    if len(on_it) == 1 and known_values(full_sum(opens[on_it.pop()]) > 0):
        # Every gate has an entry in each of its parameters.
        return False
    entries = p.spread(opens, owned=True) != 0
    return known_values(full_sum(entries)) == 0
