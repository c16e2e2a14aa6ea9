"""The search for the attributes that count a vector's units: guided by how far forward comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from l0func.compaction.attribute_choices import (
    AttributeKind,
    Choice,
    Key,
    as_attrs,
    attribute_kinds,
    levels,
    nearest_of_shared,
    subsets,
    without_each,
)
from l0func.compaction.failure import Failure
from l0func.compaction.grouping import UnitVector
from l0func.compaction.module_numbers import ModuleNumber, are_read, read_numbers
from l0func.compaction.trial import Trial
from l0func.spec.plan import Group

# The most choices of attributes to try for one vector.
_TRIES = 150


class Fit(NamedTuple):
    """A vector that passed a trial of its own, and its group."""

    vector: UnitVector
    group: Group


class _Attempt:
    """The tries for one vector; no choice is tried twice.

    Attributes:
        furthest: The failure of the try that came furthest.
    """

    def __init__(self, trial: Trial, vector: UnitVector) -> None:
        self._trial, self._vector = trial, vector
        self._results: dict[frozenset[str], Failure | None] = {}
        self.furthest = Failure((-1, 0.0), "")

    def passes(self, choice: Choice) -> bool:
        """Whether the removal is exact with these attributes."""
        return self._failure(choice) is None

    def searched(self, kinds: Sequence[AttributeKind]) -> Choice | None:
        """The first choice that passes, without what it does not need; None if there is none."""
        for choice in self._candidates(kinds):
            if len(self._results) >= _TRIES:
                return None
            if self.passes(choice):
                return self._least(choice)
        return None

    def _failure(self, choice: Choice) -> Failure | None:
        attrs = as_attrs(choice)
        paths = frozenset(attrs)
        if paths not in self._results:
            failure = self._trial.failure({self._vector.name: self._vector.group(attrs)})
            self._results[paths] = failure
            if failure is not None:
                self.furthest = max(self.furthest, failure, key=_reached)
        return self._results[paths]

    def _candidates(self, kinds: Sequence[AttributeKind]) -> Iterator[Choice]:
        once = nearest_of_shared(kinds)
        yield from levels(once)
        yield from self._climbing(once)
        yield from self._falling(once)
        yield from levels(kinds)
        yield from subsets(once)
        yield from subsets(kinds)

    def _climbing(self, kinds: Sequence[AttributeKind]) -> Iterator[Choice]:
        """From no attribute up: each time the one with which forward comes furthest is added."""
        choice: Choice = ()
        while len(choice) < len(kinds):
            larger = [(*choice, kind) for kind in kinds if kind not in choice]
            yield from larger
            choice = max(larger, key=self._progress)

    def _falling(self, kinds: Sequence[AttributeKind]) -> Iterator[Choice]:
        """From all attributes down, in the same way."""
        choice = tuple(kinds)
        while len(choice) > 1:
            smaller = list(without_each(choice))
            yield from smaller
            choice = max(smaller, key=self._progress)

    def _progress(self, choice: Choice) -> tuple[int, float]:
        failure = self._failure(choice)
        return (0, 0.0) if failure is None else failure.reached

    def _least(self, choice: Choice) -> Choice:
        """The choice without the kinds that it does not need."""
        for smaller in without_each(choice):
            if smaller and self.passes(smaller):
                return self._least(smaller)
        return choice


def _reached(failure: Failure) -> tuple[int, float]:
    return failure.reached


@dataclass
class AttributeSearch:
    """A search through attributes, for one vector after the other.

    Attributes:
        trial: The trial.
        earlier: The choices that fitted earlier vectors, by their keys, the last one first.
    """

    trial: Trial
    earlier: list[frozenset[Key]] = field(default_factory=list[frozenset[Key]])

    @cached_property
    def numbers(self) -> list[ModuleNumber]:
        """The integers that forward reads; vectors that need none do not ask."""
        return read_numbers(self.trial)

    def fit_alike(self, vectors: Sequence[UnitVector]) -> dict[str, Fit | Failure]:
        """The results of vectors in like blocks, by their names.

        The first one's attributes are tried on all together, so that the number of runs does not
        grow with the number of blocks.
        """
        first, *others = vectors
        result = self.fit(first)
        results = {first.name: result}
        together = None
        if others and isinstance(result, Fit):
            skipped = len(first.scales) - len(result.vector.scales)
            variants = [vector.variant(skipped) for vector in others]
            together = self._like_the_last([result.vector, *variants])
        if together is not None:
            groups = {name: fit.group for name, fit in together.items()}
            if self.trial.failure(groups) is None:
                return {**together}
        for vector in others:
            results[vector.name] = self.fit(vector)
        return results

    def _like_the_last(self, vectors: Sequence[UnitVector]) -> dict[str, Fit] | None:
        """Fits of all vectors by the choice that fitted last; None if one has no such choice."""
        fits: dict[str, Fit] = {}
        keys = self.earlier[0] if self.earlier else frozenset[Key]()
        for vector in vectors:
            choice = self._chosen(vector, keys)
            if len(choice) != len(keys):
                return None
            fits[vector.name] = Fit(vector, vector.group(as_attrs(choice)))
        return fits

    def _chosen(self, vector: UnitVector, keys: frozenset[Key]) -> Choice:
        if not keys:
            return ()
        return tuple(kind for kind in attribute_kinds(self.numbers, vector) if kind.key in keys)

    def fit(self, vector: UnitVector) -> Fit | Failure:
        """The first variant of the vector that fits, or the failure of the try that came furthest.

        The variants make up for units lost under a norm in different ways.
        """
        failures: list[Failure] = []
        for variant in vector.variants():
            result = self._fit_one(variant)
            if isinstance(result, Fit):
                return result
            failures.append(result)
        return max(failures, key=_reached)

    def _fit_one(self, vector: UnitVector) -> Fit | Failure:
        """The vector with the fewest attributes that make its removal exact.

        Returns:
            The fit, or the failure of the try that came furthest.
        """
        attempt = _Attempt(self.trial, vector)
        if attempt.passes(()):
            return self._noted(vector, ())
        kinds = attribute_kinds(self.numbers, vector)
        for keys in self.earlier:
            choice = tuple(kind for kind in kinds if kind.key in keys)
            if attempt.passes(choice):
                return self._noted(vector, choice)
        read = [kind for kind in kinds if self._is_read_there(kind)]
        choice = attempt.searched(read)
        if choice is None:
            return attempt.furthest
        return self._noted(vector, choice)

    def _is_read_there(self, kind: AttributeKind) -> bool:
        """Whether forward reads the attributes in these modules, and not only in others."""
        numbers = [number for number in self.numbers if number.path in kind.attrs]
        return are_read(self.trial, numbers)

    def _noted(self, vector: UnitVector, choice: Choice) -> Fit:
        keys = frozenset(kind.key for kind in choice)
        self.earlier = [keys, *[other for other in self.earlier if other != keys]]
        return Fit(vector, vector.group(as_attrs(choice)))
