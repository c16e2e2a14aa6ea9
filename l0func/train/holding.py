"""The smallest shift of gate locations that opens enough gates again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
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

ROUNDING = 1e-6
"""A share that is larger than a target by less has reached it."""


class Enough(NamedTuple):
    """An amount that gates must reach; it never falls as they rise."""

    of: Callable[[Gates], Tensor]
    """The amount for gates, a scalar, such as the share that stays."""

    least: Tensor | int
    """The amount from which gates are enough."""

    at: Callable[[Tensor], Callable[[int], Tensor]] | None = None
    """For gates on shards: the amounts after each of several shifts, in ascending order."""

    most: Tensor | None = None
    """The amount that no single gate may step over, if there is one."""


def raised(gates: Gates, caps: Mapping[str, float], shift: Tensor) -> Gates:
    """Gates with a number added to the locations of some gate vectors, up to a cap for each.

    A gate at its cap is as good as always open. Higher ones stay where they are.
    """
    moved = {name: gates[name] + shift.to(gates[name]) for name in caps}
    return dict(gates) | {
        name: t.minimum(gates[name].clamp(min=caps[name])) for name, t in moved.items()
    }


def least_shift(
    gates: Gates,
    caps: Mapping[str, float],
    enough: Enough,
    now: Tensor,
    numbers: Callable[[Sequence[Gates]], Sequence[Tensor]] | None = None,
) -> Tensor:
    """The smallest shift, at least 0, with which gates are enough.

    One shift for all keeps their order: those that were open the longest open first. Where one
    gate alone would step over ``enough.most``, it stays closed: the shift is then the smallest
    that opens all gates before it.

    Args:
        gates: ``{gate name: log_alpha}``.
        caps: The gate vectors that are raised, each with the location that it is raised to.
        enough: Which gates are enough.
        now: The amount for these gates.
        numbers: The numbers of open gates for each of several gates; goes with ``enough.most``.
    """
    trials = _Trials(gates, caps, enough)
    found = _bounds_around(trials, enough.least, now)
    shift = torch.where(now >= enough.least, 0.0, found.high)
    if enough.most is None or numbers is None:
        return shift
    steps_over = (now < enough.least) & (found.at_high > enough.most + ROUNDING)
    if known_values(steps_over) is False:
        return shift
    before, after = numbers([raised(gates, caps, x) for x in (found.low, found.high)])
    # Gates at one location open together, or none of them ever would.
    steps_over = steps_over & (after - before < 1.5)
    if known_values(steps_over) is False:
        return shift
    below = _bounds_around(trials, found.at_low, now)
    return torch.where(steps_over, torch.where(now >= found.at_low, 0.0, below.high), shift)


class _Bounds(NamedTuple):
    """A shift that is too small, one that is not, and the amounts after both."""

    low: Tensor
    high: Tensor
    at_low: Tensor
    at_high: Tensor

    def narrowed(self, shift: Tensor, amount: Tensor, least: Tensor | int) -> _Bounds:
        """The bounds after a trial between them."""
        own, is_there = _Bounds(shift, shift, amount, amount), amount >= least
        halves = (is_there, ~is_there, is_there, ~is_there)
        # The lower ones stay where the trial is enough, the upper ones where it is not.
        return _Bounds(*map(torch.where, halves, self, own))


def _bounds_around(trials: _Trials, least: Tensor | int, now: Tensor) -> _Bounds:
    """The closest bounds around the smallest shift that reaches an amount."""
    reach = (_REACH - trials.lowest).clamp(min=0.0)
    zero = torch.zeros_like(reach)
    # Nobody tries the farthest shift: all gates are open there.
    found = _Bounds(zero, reach, now, torch.full_like(now, -torch.inf))
    already = known_values(now >= least)
    if already:
        return found._replace(high=zero, at_high=now)
    if already is not None:
        found = _bracket(trials, found, least)
    smallest = reach / 2**_HALVINGS
    for _ in range(_HALVINGS):
        if known_values((found.high - found.low) <= smallest):
            break
        middle = (found.low + found.high) / 2
        ahead = partial(_middles, found.low, found.high, smallest)
        found = found.narrowed(middle, trials(middle, ahead), least)
    return found


class _Trials:
    """The amounts after shifts."""

    def __init__(self, gates: Gates, caps: Mapping[str, float], enough: Enough) -> None:
        self.gates, self.caps, self.enough = gates, caps, enough
        self.lowest = _lowest([gates[name] for name in caps])
        self.asked: list[tuple[list[float], Callable[[int], Tensor]]] = []

    def __call__(self, shift: Tensor, ahead: Callable[[], Tensor]) -> Tensor:
        """The amount after a shift.

        Args:
            shift: The shift.
            ahead: This shift and others that may be asked for next, in ascending order.
        """
        if self.enough.at is None:
            return self.enough.of(raised(self.gates, self.caps, shift))
        for shifts, amounts in self.asked:
            if known_values(shift) in shifts:
                return amounts(shifts.index(known_values(shift)))
        tried = ahead()
        self.asked.append((known_values(tried), self.enough.at(tried)))
        return self(shift, ahead)


def _bracket(trials: _Trials, found: _Bounds, least: Tensor | int) -> _Bounds:
    """The bounds after the first of a rising series of shifts that is enough."""
    reach = found.high
    series = [(reach * 0 + _FIRST).minimum(reach)]
    while known_values(series[-1] < reach):
        series.append((4 * series[-1]).minimum(reach))
    for shift in series[:-1]:
        amount = trials(shift, lambda: torch.stack(series[:-1]))
        found = found.narrowed(shift, amount, least)
        if known_values(amount >= least):
            break
    return found


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
