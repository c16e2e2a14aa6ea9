"""Guesses: module attributes, such as head counts, that may count the units in a vector.

Forward reads sizes from them, so they must shrink with the units. ``unit_groups`` tries the
choices in turn.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple, cast

from torch import Tensor

from l0func.compaction.grouping import UnitVector
from l0func.compaction.resize import RESIZERS
from l0func.pure.functional import PureModule
from l0func.pure.part import Part

# The most attributes in one choice; the last choice, with all candidates, may have more.
_MOST_AT_ONCE = 3
# How many levels to search below an attribute: the items of lists, the attributes of objects.
_DEEPEST = 2


class _Candidate(NamedTuple):
    """An attribute that may count units.

    Attributes:
        path: Its dotted path.
        each: Its amount for one unit.
        counts_slices: Whether it counts units or single slices, rather than runs of slices.
    """

    path: str
    each: int
    counts_slices: bool

    def rank(self) -> tuple[bool, int]:
        """A sort key: attributes that count units or slices first, then the nearest modules."""
        return not self.counts_slices, -self.path.count(".")


def attribute_choices(fn: PureModule, vector: UnitVector) -> Iterator[dict[str, int]]:
    """Attributes that may count the units together, smallest choices first.

    Returns:
        For each choice ``{attribute path: amount for one unit}``, as in ``l0func.group``.
    """
    candidates = _candidates(fn, vector)
    for number in range(min(len(candidates), _MOST_AT_ONCE) + 1):
        for subset in combinations(candidates, number):
            yield _attribute_choice(subset)
    if len(candidates) > _MOST_AT_ONCE:
        yield _attribute_choice(candidates)


def _attribute_choice(candidates: Sequence[_Candidate]) -> dict[str, int]:
    return {candidate.path: candidate.each for candidate in candidates}


def _candidates(fn: PureModule, vector: UnitVector) -> list[_Candidate]:
    owners = _modules_above(vector.paths())
    sizes = {1, *vector.sizes}
    found: list[_Candidate] = []
    for path, part in fn.parts():
        if not _is_near(path, owners):
            continue
        for name, value in _integers(part):
            if not _is_shared_equally(value, vector.count):
                continue
            each = value // vector.count
            if _divides_any(each, sizes):
                attribute = f"{path}.{name}".strip(".")
                found.append(_Candidate(attribute, each, each in sizes))
    found.sort(key=_Candidate.rank)
    return found


def _is_near(module: str, owners: Collection[str]) -> bool:
    """Whether a module, or its parent, holds a tensor with these units at any depth."""
    return module in owners or _parent(module) in owners


def _is_shared_equally(value: int, count: int) -> bool:
    """Whether ``count`` units can share an attribute with this value in equal amounts."""
    return value != 0 and value % count == 0


def _divides_any(each: int, sizes: Collection[int]) -> bool:
    """Whether the amount for one unit can count its slices in some tensor, or equal runs."""
    return any(size % each == 0 for size in sizes)


def _modules_above(paths: Collection[str]) -> set[str]:
    """The modules that hold these tensors, and all modules above them, as paths.

    The root, with an empty path, is always among them.
    """
    found: set[str] = set()
    for path in paths:
        names = _parent(path).split(".")
        for length in range(len(names) + 1):
            found.add(".".join(names[:length]))
    return found


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _integers(part: Part) -> Iterator[tuple[str, int]]:
    """A module's integer attributes: dotted names and values."""
    if issubclass(part.kind, tuple(RESIZERS)) and part.paths():
        # A resizer sets this module's attributes.
        return
    for name, value in part.attributes().items():
        yield from _integers_in(name, value, depth=_DEEPEST)


def _integers_in(name: str, value: Any, depth: int) -> Iterator[tuple[str, int]]:
    if type(value) is int:
        yield name, value
    elif depth:
        for key, item in _items(value):
            yield from _integers_in(f"{name}.{key}", item, depth - 1)


def _items(value: Any) -> list[tuple[Any, Any]]:
    """The items in a tuple or list, or an object's attributes; tensors and types have none."""
    if isinstance(value, tuple | list):
        return list(enumerate(cast("Sequence[Any]", value)))
    if isinstance(value, Tensor | type) or not hasattr(value, "__dict__"):
        return []
    return list(cast("dict[str, Any]", vars(value)).items())
