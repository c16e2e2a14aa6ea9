"""From a trace to unit vectors: units with slices at the same places share a gate vector."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from operator import sub
from typing import NamedTuple

import torch

from l0func.compaction.norm_scales import NormScales, scale_choices
from l0func.compaction.slice_rules import rules_for
from l0func.compaction.unit_slices import (
    SlicePlace,
    UnitSlices,
    first_maker,
    is_read,
    side_by_side,
    slices_by_unit,
)
from l0func.spec.build import group
from l0func.spec.plan import Group
from l0func.spec.rules import Rule, blocks
from l0func.tracing.trace import Trace


@dataclass(frozen=True)
class UnitVector:
    """A row of like units, for one gate vector.

    All have slices at the same places, and the slices advance by equal steps from unit to unit.

    Attributes:
        name: The group's name: the module or the parameter that makes the units.
        count: The number of units.
        sizes: The numbers of slices that one unit has in some tensor, in total and in each run.
        multiplies: Rules for the slices that a gate scales: those that read the units; under an
            RMSNorm those that make them.
        owns: Rules for the other slices.
        scales: Ways to make up for lost units under an RMSNorm, likely ones first.
        normed: Whether an RMSNorm runs over the units; it reads them without a slice.
        maker: The first parameter that makes them.
        units: The slices of each unit.
    """

    name: str
    count: int
    sizes: frozenset[int]
    multiplies: dict[str, list[Rule]]
    owns: dict[str, list[Rule]]
    scales: list[NormScales]
    normed: bool
    maker: str
    units: list[UnitSlices]

    def group(self, attrs: dict[str, int]) -> Group:
        """The units as a group for a gate spec.

        Args:
            attrs: For each module attribute that counts units: its amount for one unit.
        """
        return group(dict(self.multiplies), dict(self.owns), attrs | self.scales[0])

    def variants(self) -> Iterator[UnitVector]:
        """The same units, each time with another way to make up for lost ones."""
        for number in range(len(self.scales)):
            yield self.variant(number)

    def variant(self, number: int) -> UnitVector:
        """The same units with another way, or the last one if there are no more."""
        first = min(number, len(self.scales) - 1)
        return replace(self, scales=self.scales[first:])

    def paths(self) -> set[str]:
        """All tensors with slices of the units."""
        return {*self.multiplies, *self.owns}


class Refusal(NamedTuple):
    """Units that cannot be removed: the parameter that makes them first, and the reason."""

    maker: str
    reason: str


_Places = tuple[tuple[SlicePlace, int], ...]
"""The places at which units have slices, and the number of slices at each."""


def unit_vectors(trace: Trace) -> tuple[list[UnitVector], dict[str, str]]:
    """Sort the units in a trace into removable and refused ones.

    Returns:
        The vectors of removable units; and for the other units, by the parameter that makes them,
        the reason.
    """
    alike, refusals = _alike_units(trace)
    found: list[UnitVector] = []
    unordered: list[_Unordered] = []
    for units in alike:
        for run in _runs_of_equal_steps(units):
            vector = vector_of(run, trace)
            if isinstance(vector, UnitVector):
                found.append(vector)
            else:
                unordered.append(_Unordered(run, vector))
    interleaved, left = _interleaved(unordered, trace)
    found += interleaved
    refusals += left
    refusals += [Refusal(path, reason) for path, reason in trace.kept_whole.items()]
    return named(found), _first_reasons(refusals)


def _alike_units(trace: Trace) -> tuple[list[list[UnitSlices]], list[Refusal]]:
    """Removable units, in lists with slices at the same places; and the refused ones."""
    alike: dict[_Places, list[UnitSlices]] = {}
    refusals: list[Refusal] = []
    for root, slices in sorted(slices_by_unit(trace).items()):
        maker = first_maker(slices)
        reason = trace.units.reason(root) or _missing_side(slices)
        if reason is None:
            alike.setdefault(_places_and_sizes(slices), []).append(slices)
        elif maker is not None:
            refusals.append(Refusal(maker, reason))
    return list(alike.values()), refusals


class _Unordered(NamedTuple):
    """A run of units without rules, and the reason."""

    units: list[UnitSlices]
    refusal: Refusal


def _interleaved(
    runs: Sequence[_Unordered], trace: Trace
) -> tuple[list[UnitVector], list[Refusal]]:
    """Vectors of runs that have rules only together, such as odd and even rows; and the rest."""
    by_maker: dict[tuple[str, int], list[_Unordered]] = {}
    for run in runs:
        by_maker.setdefault((run.refusal.maker, len(run.units)), []).append(run)
    found: list[UnitVector] = []
    refusals: list[Refusal] = []
    for alike in by_maker.values():
        vector = vector_of(side_by_side([run.units for run in alike]), trace)
        if isinstance(vector, UnitVector):
            found.append(vector)
        else:
            refusals += [run.refusal for run in alike]
    return found, refusals


def _first_reasons(refusals: Sequence[Refusal]) -> dict[str, str]:
    """The first reason for each maker."""
    reasons: dict[str, str] = {}
    for maker, reason in refusals:
        reasons.setdefault(maker, reason)
    return reasons


def _missing_side(slices: UnitSlices) -> str | None:
    """The reason to keep a unit that no parameter reads, or that no parameter makes."""
    if not is_read(slices):
        return "nothing that has parameters reads them"
    if first_maker(slices) is None:
        return "nothing that has parameters makes them"
    return None


def _places_and_sizes(slices: UnitSlices) -> _Places:
    return tuple((place, len(positions)) for place, positions in slices.items())


def _runs_of_equal_steps(units: Sequence[UnitSlices]) -> Iterator[list[UnitSlices]]:
    """Split units into runs; within a run all slices advance by equal steps from unit to unit."""
    run: list[UnitSlices] = [units[0]]
    run_step: list[int] | None = None
    before = _positions(units[0])
    for unit in units[1:]:
        positions = _positions(unit)
        step = list(map(sub, positions, before))
        before = positions
        if run_step is None or step == run_step:
            run.append(unit)
            run_step = step
        else:
            yield run
            run, run_step = [unit], None
    yield run


def _positions(unit: UnitSlices) -> list[int]:
    return list(chain.from_iterable(unit.values()))


def vector_of(run: Sequence[UnitSlices], trace: Trace) -> UnitVector | Refusal:
    """One vector for a run of units, or the reason to keep them."""
    first = run[0]
    maker = first_maker(first)
    assert maker is not None
    if len(run) == 1:
        return Refusal(
            maker, "they all go together, as one unit: without it nothing would be left"
        )
    multiplies: dict[str, list[Rule]] = {}
    owns: dict[str, list[Rule]] = {}
    sizes: set[int] = set()
    for place in first:
        rules = _rules_at(place, run, trace)
        if rules is None:
            reason = f"their slices of {place.path!r} are in an order that no rule has"
            return Refusal(maker, reason)
        table = multiplies if place.multiplies else owns
        table.setdefault(place.path, []).extend(rules)
        sizes.add(len(first[place]))
        sizes.update(rule.size for rule in rules if isinstance(rule, blocks))
    normed = any(place.multiplies and not place.reads for place in first)
    scales = scale_choices(run, trace)
    sizes_of_unit, units = frozenset(sizes), list(run)
    return UnitVector(
        maker, len(run), sizes_of_unit, multiplies, owns, scales, normed, maker, units
    )


def _rules_at(place: SlicePlace, run: Sequence[UnitSlices], trace: Trace) -> list[Rule] | None:
    positions = torch.tensor([unit[place] for unit in run], device="cpu")
    size = trace.shapes[place.path][place.dim]
    return rules_for(positions, place.dim, size)


def named(found: Sequence[UnitVector]) -> list[UnitVector]:
    """Name each vector by the module that makes its units, if that module makes one vector only.

    Otherwise the parameter is the name, with a number from the second vector on.
    """
    vectors_of_module = Counter(_module_of(vector.maker) for vector in found)
    earlier: Counter[str] = Counter()
    named: list[UnitVector] = []
    for vector in found:
        module = _module_of(vector.maker)
        is_alone = module != "" and vectors_of_module[module] == 1
        name = module if is_alone else vector.maker
        if earlier[vector.maker]:
            name = f"{name}:{earlier[vector.maker] + 1}"
        earlier[vector.maker] += 1
        named.append(replace(vector, name=name))
    return named


def _module_of(path: str) -> str:
    return path.rpartition(".")[0]
