"""Costs of gates on shards at several shifts of their locations, in one collective.

A gate's level is the share of the shifts, in ascending order, at which it is open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from l0func.costs.macs import MacCounts
from l0func.costs.terms import TermFactors, own_weights, totals_of
from l0func.internal.shard_sums import OwnSum, own_sums_of_levels
from l0func.spec.plan import GateSpec, ParameterPlan


def open_entries_at(
    parameters: Sequence[ParameterPlan], levels: Mapping[str, Tensor], number: int, zero: Tensor
) -> Tensor:
    """The open entries of gated parameters at each shift, shape ``(number,)``.

    Args:
        parameters: The parameters.
        levels: ``{gate name: levels}``, DTensors.
        number: The number of shifts.
        zero: A scalar of the result's dtype and device.
    """
    own: list[OwnSum] = []
    factors: list[TermFactors] = []
    for p in parameters:
        on_entries = p.spread_levels(levels)
        own.append(own_sums_of_levels(on_entries, number))
        factors.append((_entries_of_each(p, on_entries),))
    return totals_of(own, [factors], zero)[0]


def open_macs_at(
    counts: MacCounts, levels: Mapping[str, Tensor], number: int, zero: Tensor, spec: GateSpec
) -> Tensor:
    """The multiply-adds with parameters at each shift, shape ``(number,)``.

    Args:
        counts: The counts; their products are left out.
        levels: ``{gate name: levels}``, DTensors.
        number: The number of shifts.
        zero: A scalar of the result's dtype and device.
        spec: The gate spec.
    """
    parameters = {p.path: p for p in spec.parameters}
    own: list[OwnSum] = []
    factors: list[TermFactors] = []
    for path, uses in counts.uses.items():
        p = parameters[path]
        if not p.bindings:
            always = uses.expand(p.shape).sum().to(zero).expand(number)
            own.append(OwnSum(always, always.dtype, None))
            factors.append(())
            continue
        on_entries = p.spread_levels(levels)
        if uses.dim() == 0:
            own.append(own_sums_of_levels(on_entries, number))
            factors.append((_entries_of_each(p, on_entries), uses.to(on_entries.dtype)))
        else:
            weights = uses.to(device=on_entries.device, dtype=on_entries.dtype)
            beside = own_weights(on_entries, weights)
            weighed = own_sums_of_levels(on_entries, number, beside)
            own.append(weighed._replace(dtype=torch.float64))
            factors.append(())
    return totals_of(own, [factors], zero)[0]


def _entries_of_each(p: ParameterPlan, on_entries: Tensor) -> float:
    return p.size / max(on_entries.numel(), 1)
