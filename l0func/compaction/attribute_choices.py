"""Guesses: module attributes, such as head counts, that may count the units in a vector.

Forward reads sizes from them, so they must shrink with the units. ``unit_groups`` tries the
choices in turn.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

from l0func.compaction.grouping import UnitVector
from l0func.compaction.module_numbers import ModuleNumber

# The most kinds of attributes in one choice, and the most that are left out of all kinds.
_MOST_AT_ONCE = 3
_MOST_LEFT_OUT = 2
# The distance up to which modules are tried by themselves first.
_NEAREST = 1


# The holder of an integer that is an attribute itself.
_PLAIN = -1


class Key(NamedTuple):
    """A kind of attributes; like attributes in like blocks have equal keys.

    Attributes:
        distance: How far their modules are from the units.
        name: Their name.
        each: Their amount for one unit.
        makes: Whether their modules hold tensors that make the units.
        reads: Whether their modules hold tensors that read the units.
    """

    distance: int
    name: str
    each: int
    makes: bool
    reads: bool


class AttributeKind(NamedTuple):
    """Attributes of one kind: they all lose units together.

    Attributes:
        key: The kind.
        attrs: ``{attribute path: amount for one unit}``.
        counts_slices: Whether they count units or single slices, rather than runs of slices.
        holders: The objects that hold them, by ``id``; a configuration is one for many modules.
    """

    key: Key
    attrs: dict[str, int]
    counts_slices: bool
    holders: frozenset[int]


Choice = tuple[AttributeKind, ...]
"""Kinds of attributes that may count the units together."""


def as_attrs(choice: Choice) -> dict[str, int]:
    """A choice as in ``l0func.group``: ``{attribute path: amount for one unit}``."""
    attrs: dict[str, int] = {}
    for kind in choice:
        attrs |= kind.attrs
    return attrs


def attribute_kinds(numbers: Sequence[ModuleNumber], vector: UnitVector) -> list[AttributeKind]:
    """The kinds of attributes that may count a vector's units, likely ones first.

    Args:
        numbers: The integers that forward reads.
        vector: The units.
    """
    distances = _distances(vector.paths(), {number.module for number in numbers})
    makers, readers = _modules_of(vector.owns), _modules_of(vector.multiplies)
    sizes = {1, *vector.sizes}
    found: dict[Key, list[ModuleNumber]] = {}
    for number in numbers:
        module = number.module
        each, rest = divmod(number.value, vector.count)
        if module not in distances or rest or not _divides_any(each, sizes):
            continue
        key = Key(distances[module], number.name, each, module in makers, module in readers)
        found.setdefault(key, []).append(number)
    kinds = [_kind(key, alike, sizes) for key, alike in found.items()]
    return sorted(kinds, key=_rank)


def _kind(key: Key, numbers: Sequence[ModuleNumber], sizes: Collection[int]) -> AttributeKind:
    attrs = {number.path: key.each for number in numbers}
    holders = frozenset(number.holder for number in numbers)
    return AttributeKind(key, attrs, key.each in sizes, holders)


def _steps_away(kind: AttributeKind) -> int:
    return kind.key.distance


def _rank(kind: AttributeKind) -> tuple[bool, int]:
    return not kind.counts_slices, kind.key.distance


def nearest_of_shared(kinds: Sequence[AttributeKind]) -> list[AttributeKind]:
    """The kinds; those in an object that many modules share are there once, near the units."""
    nearest: dict[tuple[str, frozenset[int]], AttributeKind] = {}
    for kind in sorted(kinds, key=_steps_away):
        nearest.setdefault((kind.key.name, kind.holders), kind)
    kept = {kind.key for kind in nearest.values()}
    return [kind for kind in kinds if kind.key in kept or _PLAIN in kind.holders]


def levels(kinds: Sequence[AttributeKind]) -> Iterator[Choice]:
    """All kinds up to some distance: those that count slices, then the others too."""
    for distance in sorted({kind.key.distance for kind in kinds}):
        near = [kind for kind in kinds if kind.key.distance <= distance]
        yield tuple(kind for kind in near if kind.counts_slices)
        yield tuple(near)


def subsets(kinds: Sequence[AttributeKind]) -> Iterator[Choice]:
    """Single kinds, pairs and triples; then all but one or two kinds; near ones first."""
    nearest = [kind for kind in kinds if kind.key.distance <= _NEAREST]
    for some in (nearest, kinds):
        for number in range(1, min(len(some), _MOST_AT_ONCE) + 1):
            yield from combinations(some, number)
        for number in range(1, min(len(some), _MOST_LEFT_OUT) + 1):
            yield from combinations(some, len(some) - number)


def without_each(choice: Choice) -> Iterator[Choice]:
    """The choice without one of its kinds, for each kind."""
    for number in range(len(choice)):
        yield choice[:number] + choice[number + 1 :]


def _distances(paths: Collection[str], modules: Collection[str]) -> dict[str, int]:
    """How far modules are from the tensors at these paths; far modules are left out.

    Returns:
        0 for the modules that hold the tensors, and their parents; 1 for the children of those; 2
        for all other modules above the tensors, up to the root; 3 for the children of these.
    """
    makers = _modules_of(paths)
    near = makers | {_parent(module) for module in makers}
    above = {module for maker in makers for module in _modules_above(maker)}
    found: dict[str, int] = {}
    for module in modules:
        steps = (module in near, _parent(module) in near, module in above)
        if any(steps):
            found[module] = steps.index(True)
        elif _parent(module) in above:
            found[module] = len(steps)
    return found


def _modules_of(paths: Iterable[str]) -> set[str]:
    return {_parent(path) for path in paths}


def _modules_above(module: str) -> list[str]:
    """A module and all modules above it; the root, with an empty path, is the first."""
    names = module.split(".")
    return [".".join(names[:length]) for length in range(len(names) + 1)]


def _divides_any(each: int, sizes: Collection[int]) -> bool:
    """Whether the amount for one unit can count its slices in some tensor, or equal runs."""
    return each > 0 and any(size % each == 0 for size in sizes)


def _parent(path: str) -> str:
    return path.rpartition(".")[0]
