"""The smallest shift of gate locations that opens enough gates again."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from l0func.gates.checks import Gates
from l0func.internal.context import known_values
from l0func.internal.shard_sums import full_min
from l0func.spec.parts import GateVector

_HALVINGS = 20
_HALVINGS_AHEAD = 7
"""At most so many halvings are looked ahead: 127 shifts."""

_FIRST = 1 / 16
"""The shift that is tried first: a step of training moves few gates farther."""

_REACH = 64.0
"""The distance from a location of 0 within which every distribution opens and closes a gate."""


class Enough(NamedTuple):
    """Whether gates are enough: once they are, they stay so as they rise."""

    of: Callable[[Gates], Tensor]
    """A bool scalar for gates."""

    at: Callable[[Tensor], Callable[[int], Tensor]] | None = None
    """For gates on shards: the answers after each of several shifts, in ascending order."""


def raised(gates: Gates, chosen: Collection[str], shift: Tensor) -> Gates:
    """Gates with a number added to the locations of some gate vectors."""
    return {name: t + shift.to(t) if name in chosen else t for name, t in gates.items()}


def least_shift(gates: Gates, chosen: Collection[str], enough: Enough, already: Tensor) -> Tensor:
    """The smallest shift, at least 0, with which gates are enough.

    One shift for all keeps their order: those that were open the longest open first.

    Args:
        gates: ``{gate name: log_alpha}``.
        chosen: The gate vectors that are raised.
        enough: Whether gates are enough.
        already: Whether these are, a bool scalar.
    """
    lowest = _lowest([gates[name] for name in chosen])
    reach = (_REACH - lowest).clamp(min=0.0)
    low, high = torch.zeros_like(lowest), reach
    is_enough = _Trials(gates, chosen, enough)
    if known_values(already) is not None:
        low, high = _bracket(reach, is_enough)
    least = reach / 2**_HALVINGS
    for _ in range(_HALVINGS):
        if known_values((high - low) <= least):
            break
        middle = (low + high) / 2
        is_there = is_enough(middle, lambda low=low, high=high: _middles(low, high, least))
        low, high = torch.where(is_there, low, middle), torch.where(is_there, middle, high)
    return torch.where(already, 0.0, high)


class _Trials:
    """Whether gates are enough after a shift."""

    def __init__(self, gates: Gates, chosen: Collection[str], enough: Enough) -> None:
        self.gates, self.chosen, self.enough = gates, chosen, enough
        self.shifts: list[float] = []
        self.answers: Callable[[int], Tensor] | None = None

    def __call__(self, shift: Tensor, ahead: Callable[[], Tensor]) -> Tensor:
        """The answer for a shift.

        Args:
            shift: The shift.
            ahead: This shift and others that may be asked for next, in ascending order.
        """
        if self.enough.at is None:
            return self.enough.of(raised(self.gates, self.chosen, shift))
        if self.answers is None or known_values(shift) not in self.shifts:
            shifts = ahead()
            self.shifts, self.answers = known_values(shifts), self.enough.at(shifts)
        return self.answers(self.shifts.index(known_values(shift)))


def _bracket(
    reach: Tensor, enough: Callable[[Tensor, Callable[[], Tensor]], Tensor]
) -> tuple[Tensor, Tensor]:
    """A shift that is too small, and the first of a rising series that is not."""
    series = [(reach * 0 + _FIRST).minimum(reach)]
    while known_values(series[-1] < reach):
        series.append((4 * series[-1]).minimum(reach))
    low = torch.zeros_like(reach)
    for high in series[:-1]:
        if known_values(enough(high, lambda: torch.stack(series[:-1]))):
            return low, high
        low = high
    return low, reach


def _middles(low: Tensor, high: Tensor, least: Tensor) -> Tensor:
    """The shifts that halvings may ask for, as many as a few messages need to find the least."""
    left = math.log2(max(2.0, float((high - low) / least)))
    halvings = math.ceil(left / math.ceil(left / _HALVINGS_AHEAD))
    bounds = torch.stack((low, high))
    for _ in range(halvings):
        bounds = torch.cat((bounds, (bounds[:-1] + bounds[1:]) / 2)).sort().values
    return bounds[1:-1]


def location_of(gate: GateVector, probability: float) -> float:
    """The location at which a gate is open with this probability."""
    low, high = (torch.tensor(x, dtype=torch.float64, device="cpu") for x in (-_REACH, _REACH))
    for _ in range(2 * _HALVINGS):
        middle = (low + high) / 2
        is_below = bool(gate.distribution.prob_nonzero(middle) < probability)
        low, high = (middle, high) if is_below else (low, middle)
    return float(high)


def _lowest(locations: Sequence[Tensor]) -> Tensor:
    # A location of minus infinity stays there whatever the shift.
    finite = [torch.where(t.isfinite(), t, 0.0) for t in locations]
    wide = any(t.dtype == torch.float64 for t in locations)
    return full_min(finite).to(torch.float64 if wide else torch.float32)
