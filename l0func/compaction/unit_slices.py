"""The slices that every unit in a trace has, in every tensor.

``grouping`` joins units with slices at the same places into vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from l0func.internal.untyped import listed, loose
from l0func.tracing.trace import Trace


class SlicePlace(NamedTuple):
    """A tensor dimension along which units have slices.

    Attributes:
        path: The parameter's or buffer's path.
        dim: The dimension.
        reads: Whether the units are read here.
        multiplies: Whether a gate multiplies these slices; otherwise it owns them.
    """

    path: str
    dim: int
    reads: bool
    multiplies: bool


UnitSlices = dict[SlicePlace, list[int]]
"""One unit's slices: for each place the indices along its dimension."""


def slices_by_unit(trace: Trace) -> dict[int, UnitSlices]:
    """Every unit's slices, by the label that stands for the unit."""
    units: dict[int, UnitSlices] = {}
    normed = _normed_units(trace)
    for (path, dim), slices in trace.slices.items():
        # Plain numbers, and one place for all like positions: there are tens of thousands.
        is_scale = path in trace.norm_weights
        reads, owns = listed(slices.reads), listed(slices.owns)
        places: dict[tuple[bool, bool], SlicePlace] = {}
        for position, root in enumerate(listed(trace.units.roots(slices.labels))):
            if root < 0:
                continue
            read = bool(reads[position])
            # A closed unit under an RMSNorm must output exact zeros: otherwise the norm would
            # scale the other units by it.
            multiplies = bool(owns[position]) and not is_scale if root in normed else read
            place = places.get((read, multiplies))
            if place is None:
                place = places[read, multiplies] = SlicePlace(path, dim, read, multiplies)
            units.setdefault(root, {}).setdefault(place, []).append(position)
    return units


def _normed_units(trace: Trace) -> set[int]:
    """The units over which an RMSNorm runs."""
    found: set[int] = set()
    for labels in trace.normed:
        roots = loose(trace.units.roots(labels)).unique()
        found.update(listed(roots))
    return found


def rolled_makers(trace: Trace) -> set[str]:
    """The first makers of units that a roll moves along the dimension in which they lie."""
    if not trace.rolled:
        return set()
    rolled: set[int] = set()
    for labels in trace.rolled:
        rolled.update(listed(loose(trace.units.roots(labels)).unique()))
    by_unit = slices_by_unit(trace).items()
    makers = {first_maker(slices) for root, slices in by_unit if root in rolled}
    return {maker for maker in makers if maker is not None}


def union(units: Iterable[UnitSlices]) -> UnitSlices:
    """The slices of several units, as one unit."""
    together: UnitSlices = {}
    for slices in units:
        for place, positions in slices.items():
            known = together.get(place, [])
            together[place] = sorted({*known, *positions})
    return together


def side_by_side(rows: Sequence[Sequence[UnitSlices]]) -> list[UnitSlices]:
    """Rows of units as one row: unit i has the slices of unit i in every row."""
    return [union(units) for units in zip(*rows, strict=True)]


def first_maker(slices: UnitSlices) -> str | None:
    """The first parameter that makes a unit, as a path; None if no parameter does."""
    for place in slices:
        if not place.reads:
            return place.path
    return None


def is_read(slices: UnitSlices) -> bool:
    """Whether any parameter reads a unit."""
    return any(place.reads for place in slices)
