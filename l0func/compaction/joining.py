"""Join units that can be removed only together.

A forward may cut a tensor into halves by its size, or view it in a fixed number of runs. Then a
unit in one piece must go with its like in the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from l0func.compaction.grouping import UnitVector, vector_of
from l0func.compaction.unit_slices import UnitSlices, side_by_side, union
from l0func.tracing.trace import Trace

# The most pieces that one vector is cut into.
_MOST_PIECES = 8


class Joined(NamedTuple):
    """One vector in place of others.

    Attributes:
        vector: The vector; a unit in it is a unit in each piece.
        members: The names of the vectors that it replaces.
    """

    vector: UnitVector
    members: frozenset[str]


def joinings(
    vector: UnitVector,
    alike: Sequence[UnitVector],
    failed: Sequence[UnitVector],
    trace: Trace,
) -> Iterator[Joined]:
    """Ways to join a vector that fails alone, likely ones first.

    With the other pieces of the tensor that makes it; its own pieces with each other; with the
    next vector that failed; with all that failed.

    Args:
        vector: The vector.
        alike: The vectors with equal numbers of units, this one included.
        failed: Those among them that failed.
        trace: The trace that they come from.
    """
    of_maker = [other for other in alike if other.maker == vector.maker]
    yield from _joined(of_maker, trace)
    for units in _joined_pieces(vector.units, trace.pieces):
        joined = vector_of(units, trace)
        if isinstance(joined, UnitVector):
            yield Joined(joined, frozenset({vector.name}))
    following = failed[failed.index(vector) :]
    yield from _joined(following[:2], trace)
    yield from _joined(failed, trace)


def _joined(vectors: Sequence[UnitVector], trace: Trace) -> Iterator[Joined]:
    if len(vectors) < 2:
        return
    units = side_by_side([vector.units for vector in vectors])
    one = vector_of(units, trace)
    if isinstance(one, UnitVector):
        yield Joined(one, frozenset(vector.name for vector in vectors))


def _joined_pieces(
    units: Sequence[UnitSlices], pieces: Collection[int]
) -> Iterator[list[UnitSlices]]:
    """The units in so many pieces of equal length, side by side; then in equal runs."""
    for number in sorted(pieces):
        length, rest = divmod(len(units), number)
        if rest or length < 2 or not 2 <= number <= _MOST_PIECES:
            continue
        starts = range(0, len(units), length)
        yield side_by_side([units[start : start + length] for start in starts])
        yield [union(units[at : at + number]) for at in range(0, len(units), number)]
