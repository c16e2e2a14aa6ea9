"""From unit vectors to verified groups: each group alone, then all together.

A group whose removal needs lower attributes gets them here. Vectors that pass only together, such
as the halves of one tensor that forward cuts in the middle, become one group.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import NamedTuple

from l0func.compaction.attribute_choices import (
    Choice,
    Key,
    as_attrs,
    attribute_choices,
    attribute_kinds,
    without_each,
)
from l0func.compaction.failure import Failure
from l0func.compaction.grouping import Refusal, UnitVector, named
from l0func.compaction.joining import joinings
from l0func.compaction.module_numbers import ModuleNumber, read_numbers
from l0func.compaction.trial import Trial
from l0func.spec.plan import Group
from l0func.tracing.trace import Trace

# The most choices of attributes to try for one vector.
_TRIES = 60


class Verified(NamedTuple):
    """Unit vectors after their trials.

    Attributes:
        vectors: The vectors that can be removed exactly, alone and together.
        groups: Their groups, by the vectors' names.
        refusals: The reasons for the others.
    """

    vectors: list[UnitVector]
    groups: dict[str, Group]
    refusals: list[Refusal]


def verified(trial: Trial, found: Sequence[UnitVector], trace: Trace) -> Verified:
    """The unit vectors that can be removed exactly, with the attributes that count them."""
    plain = {vector.name: vector.group({}) for vector in found}
    if not plain or trial.failure(plain) is None:
        return Verified(list(found), plain, [])
    search = _Search(trial)
    alone: _Results = {vector.name: (vector, search.fit(vector)) for vector in found}
    fits: list[_Fit] = []
    refusals: list[Refusal] = []
    for vector, result in _with_joined(search, trace, alone).values():
        if isinstance(result, Failure):
            refusals.append(_refusal(vector, result))
        else:
            fits.append(result)
    kept, conflicts = _together(trial, {}, fits)
    return _renamed(list(kept.values()), refusals + conflicts)


def _renamed(fits: Sequence[_Fit], refusals: list[Refusal]) -> Verified:
    """The result, with names that fit the vectors that are left."""
    vectors = named([fit.vector for fit in fits])
    groups: dict[str, Group] = {}
    for vector, fit in zip(vectors, fits, strict=True):
        groups[vector.name] = fit.group
    return Verified(vectors, groups, refusals)


class _Fit(NamedTuple):
    """A vector that passed a trial of its own, and its group."""

    vector: UnitVector
    group: Group


@dataclass
class _Search:
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

    def fit(self, vector: UnitVector) -> _Fit | Failure:
        """The first variant of the vector that fits, or the failure of the try that came furthest.

        The variants make up for units lost under a norm in different ways.
        """
        failures: list[Failure] = []
        for variant in vector.variants():
            result = self._fit_one(variant)
            if isinstance(result, _Fit):
                return result
            failures.append(result)
        return max(failures, key=_reached)

    def _fit_one(self, vector: UnitVector) -> _Fit | Failure:
        """The vector with the fewest attributes that make its removal exact.

        Returns:
            The fit, or the failure of the try that came furthest.
        """
        furthest = self.trial.failure({vector.name: vector.group({})})
        if furthest is None:
            return _Fit(vector, vector.group({}))
        kinds = attribute_kinds(self.numbers, vector)
        choices = attribute_choices(kinds, self.earlier)
        for choice in islice(choices, 1, _TRIES):
            failure = self._failure(vector, choice)
            if failure is None:
                return self._noted(vector, self._least(vector, choice))
            furthest = max(furthest, failure, key=_reached)
        return furthest

    def _failure(self, vector: UnitVector, choice: Choice) -> Failure | None:
        return self.trial.failure({vector.name: vector.group(as_attrs(choice))})

    def _least(self, vector: UnitVector, choice: Choice) -> Choice:
        """The choice without the kinds that it does not need."""
        if frozenset(kind.key for kind in choice) in self.earlier:
            return choice
        for smaller in without_each(choice):
            if smaller and self._failure(vector, smaller) is None:
                return self._least(vector, smaller)
        return choice

    def _noted(self, vector: UnitVector, choice: Choice) -> _Fit:
        keys = frozenset(kind.key for kind in choice)
        self.earlier = [keys, *[other for other in self.earlier if other != keys]]
        return _Fit(vector, vector.group(as_attrs(choice)))


_Results = dict[str, tuple[UnitVector, "_Fit | Failure"]]
"""For each vector, by its name: the result of its own trials."""


def _with_joined(search: _Search, trace: Trace, results: _Results) -> _Results:
    """The results with vectors joined that fail alone and pass together."""
    standing = dict(results)
    tried: set[frozenset[str]] = set()
    for vector, result in results.values():
        if vector.name in standing and isinstance(result, Failure):
            standing = _with_one_joined(search, trace, vector, standing, tried)
    return standing


def _with_one_joined(
    search: _Search,
    trace: Trace,
    vector: UnitVector,
    results: _Results,
    tried: set[frozenset[str]],
) -> _Results:
    """The results with one vector joined to others, in the first way that passes.

    Args:
        search: The search through attributes.
        trace: The trace.
        vector: A vector that failed.
        results: The results so far.
        tried: The members of all vectors that were joined so far; new ones are added.
    """
    alike = [other for other, _ in results.values() if other.count == vector.count]
    failed = [other for other in alike if isinstance(results[other.name][1], Failure)]
    for one, members in joinings(vector, alike, failed, trace):
        if len(members) > 1 and members in tried:
            continue
        tried.add(members)
        fit = search.fit(one)
        if isinstance(fit, _Fit):
            return _replaced(results, members, fit)
    return results


def _replaced(results: _Results, members: Collection[str], fit: _Fit) -> _Results:
    """The results with one vector in place of several, where the first of them was."""
    changed: _Results = {}
    for name, result in results.items():
        if name not in members:
            changed[name] = result
        elif fit.vector.name not in changed:
            changed[fit.vector.name] = (fit.vector, fit)
    return changed


def _together(
    trial: Trial, kept: Mapping[str, _Fit], more: Sequence[_Fit]
) -> tuple[dict[str, _Fit], list[Refusal]]:
    """Add fits to those that pass together already.

    All are tried at once. If that fails, each half is added in turn.

    Returns:
        All fits that pass together; and the reasons for those that do not pass with the others.
    """
    together = {**kept, **{fit.vector.name: fit for fit in more}}
    if len(together) <= 1:
        return together, []
    failure = trial.failure({name: fit.group for name, fit in together.items()})
    if failure is None:
        return together, []
    if len(more) == 1:
        return dict(kept), [_refusal(more[0].vector, failure, " together with others")]
    middle = len(more) // 2
    first, refused = _together(trial, kept, more[:middle])
    both, refused_later = _together(trial, first, more[middle:])
    return both, refused + refused_later


def _reached(failure: Failure) -> tuple[int, float]:
    return failure.reached


def _refusal(vector: UnitVector, failure: Failure, how: str = "") -> Refusal:
    reason = f"a trial without some of them{how} failed: {failure.reason}"
    return Refusal(vector.maker, reason)
