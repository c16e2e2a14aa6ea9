"""Costs as sums of terms: entries of parameters, added for all of them in one collective."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from l0func.internal.shard_sums import OwnSum, added, own_sum
from l0func.internal.sharding import as_index, is_dtensor, layout_of, owned_along
from l0func.internal.shards import part, wrapped
from l0func.spec.plan import ParameterPlan

TermFactors: TypeAlias = tuple[float | Tensor, ...]


class Term(NamedTuple):
    """The sum of some values, times each of the factors."""

    values: Tensor
    factors: TermFactors = ()


def entry_term(values: Tensor, p: ParameterPlan, *factors: float | Tensor) -> Term:
    """The sum over a parameter's entries of values that broadcast to the parameter."""
    copies = p.size / max(values.numel(), 1)
    return Term(values, (copies, *factors))


def weighted_term(values: Tensor, weights: Tensor) -> Term:
    """The sum of products with weights for every entry, whole also where values are a DTensor."""
    own = own_weights(values, weights)
    if not is_dtensor(values):
        return Term(values * own)
    return Term(wrapped(part(values) * own, layout_of(values), values.shape))


def own_weights(values: Tensor, weights: Tensor) -> Tensor:
    """Weights for every entry, added where values broadcast: those beside this process's values.

    Args:
        values: Values that broadcast to the weights.
        weights: The weights, whole.
    """
    single = [dim for dim, size in enumerate(values.shape) if size == 1]
    own = weights.sum(single, keepdim=True) if single else weights
    if not is_dtensor(values):
        return own
    layout = layout_of(values)
    for dim, size in enumerate(values.shape):
        if size > 1:
            index = as_index(owned_along(layout, dim, size))
            own = own.index_select(dim, index.to(own.device))
    return own.to(part(values).device)


def totals(groups: Iterable[Iterable[Term]], start: Tensor | None = None) -> list[Tensor]:
    """For each group the sum of its terms; a zero for a group without any.

    For DTensors it is one collective for all groups, which every process calls. A group may be a
    generator: the values of a term are summed before the next one is made.

    Args:
        groups: Groups of terms.
        start: A zero to begin with, of the wanted dtype and device; by default the first term.
    """
    own: list[OwnSum] = []
    factors: list[list[TermFactors]] = []
    for group in groups:
        factors.append([])
        for term in group:
            own.append(own_sum(term.values))
            factors[-1].append(term.factors)
    return totals_of(own, factors, start)


def totals_of(
    own: Sequence[OwnSum], factors: Iterable[Sequence[TermFactors]], start: Tensor | None
) -> list[Tensor]:
    """For each group the sum of its terms, of which this process has its own sums.

    Args:
        own: The sums of all groups.
        factors: For each group the factors of its sums.
        start: A zero to begin with.
    """
    sums = added(own)
    found: list[Tensor] = []
    for of_group in factors:
        mine, sums = sums[: len(of_group)], sums[len(of_group) :]
        found.append(_total(map(_times, mine, of_group), start))
    return found


def _times(total: Tensor, factors: TermFactors) -> Tensor:
    for factor in factors:
        total = total * factor
    return total


def _total(terms: Iterable[Tensor], start: Tensor | None) -> Tensor:
    total = start
    for term in terms:
        own = term if start is None else term.to(start)
        total = own if total is None else total + own
    return torch.zeros(()) if total is None else total
