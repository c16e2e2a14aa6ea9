"""What gates on shards amount to after each of several shifts, found in one collective."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import TypeAlias

import torch
from torch import Tensor

from l0func.costs.latency import LatencyTable
from l0func.costs.levels import open_entries_at, open_macs_at
from l0func.costs.macs import MacCounts
from l0func.costs.products import gates_of_products, macs_of_products
from l0func.gates.checks import Gates, MaskEstimator
from l0func.gates.masks import deterministic_gate
from l0func.internal.shard_sums import added, own_sums_of_levels
from l0func.internal.sharding import is_dtensor, layout_of
from l0func.internal.shards import part, whole_of, wrapped
from l0func.spec.plan import GateSpec, GateVector
from l0func.train.constraints import Constraint
from l0func.train.opens import counting_dtype, open_or_nan

Amounts: TypeAlias = Callable[[int], Tensor]
"""The amount after the shift of this number, a scalar."""


def levels_of(
    gate: GateVector, log_alpha: Tensor, shifts: Tensor, estimator: MaskEstimator
) -> Tensor:
    """The share of the shifts at which each gate is open; NaN where its location is NaN.

    Args:
        gate: The gate vector.
        log_alpha: Its locations, a DTensor.
        shifts: The shifts in ascending order: a gate that is open stays open at the next.
        estimator: The test-time gates.

    Returns:
        A DTensor of the locations' shape and layout, float32 or float64.
    """
    local, number = part(log_alpha), len(shifts)
    steps = shifts.to(local)
    first = torch.zeros(local.shape, dtype=torch.int64, device=local.device)
    for power in reversed(range(number.bit_length())):
        tried = first + (2**power - 1)
        moved = local + steps[tried.clamp(max=number - 1)]
        is_closed = deterministic_gate(gate, moved, estimator) == 0
        first = torch.where((tried < number) & is_closed, first + 2**power, first)
    levels = (number - first).to(torch.promote_types(local.dtype, torch.float32)) / number
    levels = torch.where(local.isnan(), torch.nan, levels)
    return wrapped(levels, layout_of(log_alpha), log_alpha.shape)


class FloorAhead:
    """The number of open gates in one vector."""

    def __init__(self, gate: GateVector, log_alpha: Tensor, estimator: MaskEstimator) -> None:
        self.gate, self.log_alpha = gate, log_alpha
        self.estimator: MaskEstimator = estimator

    def __call__(self, shifts: Tensor) -> Amounts:
        """The amounts after each of several shifts, in ascending order."""
        levels = levels_of(self.gate, self.log_alpha, shifts, self.estimator)
        own = own_sums_of_levels(levels, len(shifts))
        [total] = added([own._replace(dtype=self.log_alpha.dtype)])
        return total.__getitem__


class ShareAhead:
    """The share of a constraint.

    Args:
        constraint: A constraint on entries or multiply-adds.
        gates: ``{gate name: log_alpha}``; those on its parameters are DTensors.
        spec: The gate spec.
        estimator: The test-time gates.
    """

    def __init__(
        self,
        constraint: Constraint,
        gates: Gates,
        spec: GateSpec,
        estimator: MaskEstimator,
    ) -> None:
        self.constraint, self.gates, self.spec = constraint, gates, spec
        self.estimator: MaskEstimator = estimator
        device = next(iter(gates.values())).device
        self.zero = torch.zeros((), dtype=counting_dtype(gates), device=device)
        self.vectors = {gate.name: gate for gate in spec.gates}

    def __call__(self, shifts: Tensor) -> Amounts:
        """The amounts after each of several shifts, in ascending order."""
        number, constraint = len(shifts), self.constraint
        levels: Gates = {}
        for name in constraint.gates:
            own = levels_of(self.vectors[name], self.gates[name], shifts, self.estimator)
            levels[name] = own.to(self.zero.dtype)
        if isinstance(constraint.costs, MacCounts):
            macs = open_macs_at(constraint.costs, levels, number, self.zero, self.spec)
            return partial(self._share_of_macs, constraint.costs, macs, shifts)
        gated = [p for p in constraint.parameters if p.bindings]
        kept = open_entries_at(gated, levels, number, self.zero)
        return ((kept + constraint.ungated) / constraint.size).__getitem__

    def _share_of_macs(self, counts: MacCounts, macs: Tensor, shifts: Tensor, i: int) -> Tensor:
        total = macs[i]
        if counts.products:
            # They are no sum over entries, and take one shift at a time.
            opens = self._behind_products(shifts[i])
            parameters = self.spec.parameters
            total = total + macs_of_products(opens, counts.products, parameters, self.zero)
        return total / counts.total

    def _behind_products(self, shift: Tensor) -> Gates:
        opens: Gates = {}
        for name, log_alpha in self._wholes.items():
            moved = log_alpha + shift.to(log_alpha)
            z = deterministic_gate(self.vectors[name], moved, self.estimator)
            opens[name] = open_or_nan(moved, z).to(self.zero.dtype)
        return opens

    @cached_property
    def _wholes(self) -> Gates:
        """The locations behind products between activations, gathered once."""
        assert isinstance(self.constraint.costs, MacCounts)
        wanted = gates_of_products(self.constraint.costs.products, self.spec.parameters)
        return {name: whole_of(self.gates[name]) for name in wanted}


def can_look_ahead(constraint: Constraint, gates: Gates) -> bool:
    """Whether the gates of a constraint are counted for several shifts at once."""
    if isinstance(constraint.costs, LatencyTable):
        return False
    return all(is_dtensor(gates[name]) for name in constraint.gates)


def searched(constraint: Constraint, gates: Gates) -> Gates:
    """The gates to search with: those of milliseconds are few, and gathered once."""
    if not isinstance(constraint.costs, LatencyTable):
        return gates
    return gates | {name: whole_of(gates[name]) for name in constraint.gates}
