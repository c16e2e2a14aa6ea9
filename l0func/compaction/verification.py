"""From unit vectors to verified groups: each group alone, then all together.

A group whose removal needs lower attributes gets them here. Vectors that pass only together, such
as the halves of one tensor that forward cuts in the middle, become one group.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from l0func.compaction.attribute_search import AttributeSearch, Fit
from l0func.compaction.failure import Failure
from l0func.compaction.grouping import Refusal, UnitVector, named
from l0func.compaction.joining import joinings
from l0func.compaction.trial import Trial
from l0func.spec.plan import Group
from l0func.tracing.trace import Trace


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
    search = AttributeSearch(trial)
    alone = _fitted(search, found)
    fits: list[Fit] = []
    refusals: list[Refusal] = []
    for vector, result in _with_joined(search, trace, alone).values():
        if isinstance(result, Failure):
            refusals.append(_refusal(vector, result))
        else:
            fits.append(result)
    kept, conflicts = _together(trial, {}, fits)
    return _renamed(list(kept.values()), refusals + conflicts)


def _renamed(fits: Sequence[Fit], refusals: list[Refusal]) -> Verified:
    """The result, with names that fit the vectors that are left."""
    vectors = named([fit.vector for fit in fits])
    groups: dict[str, Group] = {}
    for vector, fit in zip(vectors, fits, strict=True):
        groups[vector.name] = fit.group
    return Verified(vectors, groups, refusals)


_Results = dict[str, tuple[UnitVector, "Fit | Failure"]]
"""For each vector, by its name: the result of its own trials."""


def _fitted(search: AttributeSearch, found: Sequence[UnitVector]) -> _Results:
    """Each vector's own result; like vectors of like blocks are tried together first."""
    fits: dict[str, Fit | Failure] = {}
    classes: dict[tuple[str, int], list[UnitVector]] = {}
    for vector in found:
        in_any_block = re.sub(r"\d+", "", vector.name)
        classes.setdefault((in_any_block, vector.count), []).append(vector)
    for alike in classes.values():
        fits |= search.fit_alike(alike)
    return {vector.name: (vector, fits[vector.name]) for vector in found}


def _with_joined(search: AttributeSearch, trace: Trace, results: _Results) -> _Results:
    """The results with vectors joined that fail alone and pass together."""
    standing = dict(results)
    tried: set[frozenset[str]] = set()
    for vector, result in results.values():
        if vector.name in standing and isinstance(result, Failure):
            standing = _with_one_joined(search, trace, vector, standing, tried)
    return standing


def _with_one_joined(
    search: AttributeSearch,
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
        if isinstance(fit, Fit):
            return _replaced(results, members, fit)
    return results


def _replaced(results: _Results, members: Collection[str], fit: Fit) -> _Results:
    """The results with one vector in place of several, where the first of them was."""
    changed: _Results = {}
    for name, result in results.items():
        if name not in members:
            changed[name] = result
        elif fit.vector.name not in changed:
            changed[fit.vector.name] = (fit.vector, fit)
    return changed


def _together(
    trial: Trial, kept: Mapping[str, Fit], more: Sequence[Fit]
) -> tuple[dict[str, Fit], list[Refusal]]:
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


def _refusal(vector: UnitVector, failure: Failure, how: str = "") -> Refusal:
    reason = f"a trial without some of them{how} failed: {failure.reason}"
    return Refusal(vector.maker, reason)
