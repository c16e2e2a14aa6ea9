"""The units that a trial closes in each group: how many, and which."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from math import comb
from typing import Literal, NamedTuple

from torch import Tensor

from l0func import random
from l0func.internal.untyped import listed

# How many random numbers of closed units, and how many sizes for all groups, a trial takes.
_DRAW_COUNT = 4
_LEVELS = 6


class Closing(NamedTuple):
    """The units to close in one run of a trial.

    Attributes:
        counts: The number of units to close in each group.
        which: The first units of each group, the last ones, or any.
    """

    counts: tuple[int, ...]
    which: Literal["any", "first", "last"] = "any"


def closings(sizes: Sequence[int], other_sizes: Collection[int] = ()) -> Iterator[Closing]:
    """The units to close, for each run of a trial.

    First half the units in every group, and all but one: a single unit is broadcast where several
    units would not fit. Then one unit, or all but one, in some groups and none in the others, so
    that of any two groups each is smaller than the other at least once: halves of one tensor often
    accept equal losses only. Then equal numbers are left in all groups: forward may compare sizes.
    Then random numbers. At last the first unit of every group, and the last one: forward may treat
    units by their places, and these runs move all places that are counted from the start, and then
    all that are counted from the end. The runs grow with the logarithm of the number of groups.

    Args:
        sizes: The number of units in each group.
        other_sizes: Sizes of other tensors, to leave as many units; the first few are used.
    """
    seen: set[Closing] = set()
    for closing in _all_closings(sizes, other_sizes):
        if any(closing.counts) and closing not in seen:
            seen.add(closing)
            yield closing


def _all_closings(sizes: Sequence[int], other_sizes: Collection[int]) -> Iterator[Closing]:
    yield from map(Closing, _counts(sizes, other_sizes))
    one = tuple(min(1, size - 1) for size in sizes)
    yield Closing(one, "first")
    yield Closing(one, "last")


def _counts(sizes: Sequence[int], other_sizes: Collection[int]) -> Iterator[tuple[int, ...]]:
    yield tuple(size // 2 for size in sizes)
    yield tuple(size - 1 for size in sizes)
    for chosen in _codes(len(sizes)):
        yield tuple(int(is_chosen) for is_chosen in chosen)
        yield tuple((size - 1) * is_chosen for size, is_chosen in zip(sizes, chosen, strict=True))
    for level in _levels(sizes, other_sizes):
        yield tuple(max(size - level, 0) for size in sizes)
    key = random.key(2)
    for draw in range(_DRAW_COUNT):
        u = random.uniform(random.fold_in(key, draw), (len(sizes),))
        yield _random_numbers(sizes, u)


def _codes(count: int) -> Iterator[list[bool]]:
    """Choices among groups: for each ordered pair one holds the first and not the second.

    Each group is in equally many choices, and no two groups in the same ones. So each of two
    groups is in a choice without the other. No smaller number of choices does that (Sperner
    1928).
    """
    length = next(k for k in itertools.count(1) if comb(k, _weight(k)) >= count)
    words = itertools.combinations(range(length), _weight(length))
    chosen_in = [frozenset(word) for word in itertools.islice(words, count)]
    for place in range(length):
        yield [place in word for word in chosen_in]


def _weight(length: int) -> int:
    return max(length // 2, 1)


def _levels(sizes: Sequence[int], other_sizes: Collection[int]) -> list[int]:
    """Numbers of units that all groups can be left with, the groups' own sizes first."""
    own = sorted(set(sizes))
    others = [size for size in other_sizes if size not in own]
    smaller = [level for level in [*own, *others] if 1 < level < max(sizes)]
    return smaller[:_LEVELS]


def _random_numbers(sizes: Sequence[int], u: Tensor) -> tuple[int, ...]:
    drawn = listed(u)
    return tuple(int(part * size) for part, size in zip(drawn, sizes, strict=True))
