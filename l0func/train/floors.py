"""The number of gates in each gate vector that stay open."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from l0func.gates.checks import Gates, MaskEstimator
from l0func.gates.masks import deterministic_gate
from l0func.internal.context import known_values
from l0func.internal.shard_sums import full_sums
from l0func.internal.sharding import is_dtensor
from l0func.spec.plan import GateSpec, GateVector
from l0func.train.ahead import FloorAhead
from l0func.train.holding import Enough, least_shift, raised
from l0func.train.opens import open_or_nan


def with_floors(
    gates: Gates,
    spec: GateSpec,
    floor: int,
    estimator: MaskEstimator,
    caps: Mapping[str, float],
) -> Gates:
    """Gates, each vector raised until so many are open, or all of a smaller vector."""
    opens = [_opens_of(gate, gates, estimator) for gate in spec.gates]
    totals = full_sums(opens)
    named = dict(gates)
    for gate, total in zip(spec.gates, totals, strict=True):
        least, log_alpha = min(floor, gate.size), gates[gate.name]
        if known_values(total >= least):
            continue
        enough = Enough(partial(_number_open, gate, estimator), least)
        if is_dtensor(log_alpha):
            enough = enough._replace(at=FloorAhead(gate, log_alpha, estimator))
        # One gate vector at a time: each trial then computes that vector alone.
        own, cap = {gate.name: log_alpha}, {gate.name: caps[gate.name]}
        named |= raised(own, cap, least_shift(own, cap, enough, total))
    return named


def _number_open(gate: GateVector, estimator: MaskEstimator, gates: Gates) -> Tensor:
    [total] = full_sums([_opens_of(gate, gates, estimator)])
    return total


def _opens_of(gate: GateVector, gates: Gates, estimator: MaskEstimator) -> Tensor:
    log_alpha = gates[gate.name]
    return open_or_nan(log_alpha, deterministic_gate(gate, log_alpha, estimator))
