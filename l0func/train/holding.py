"""The smallest shift of gate locations that opens enough gates again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from l0func.gates.checks import Gates
from l0func.internal.context import known_values
from l0func.internal.shard_sums import full_min
from l0func.spec.parts import GateVector

_HALVINGS = 20
_FIRST = 1 / 16
"""The shift that is tried first: a step of training moves few gates farther."""

_REACH = 64.0
"""The distance from a location of 0 within which every distribution opens and closes a gate."""


def raised(gates: Gates, chosen: Collection[str], shift: Tensor) -> Gates:
    """Gates with a number added to the locations of some gate vectors."""
    return {name: t + shift.to(t) if name in chosen else t for name, t in gates.items()}


def held(gates: Gates, chosen: Collection[str], enough: Callable[[Gates], Tensor]) -> Gates:
    """Gates raised by the smallest shift, at least 0, with which they are enough.

    One shift for all keeps their order: those that were open the longest open first.

    Args:
        gates: ``{gate name: log_alpha}``.
        chosen: The gate vectors that are raised.
        enough: Whether gates are enough, a bool scalar: once true it stays true as they rise.
    """
    already = enough(gates)
    suffices = known_values(already)
    if suffices:
        # The usual case, without the halvings below, which cost many calls.
        return gates
    lowest = _lowest([gates[name] for name in chosen])
    reach = (_REACH - lowest).clamp(min=0.0)
    low, high = torch.zeros_like(lowest), reach
    if suffices is not None:
        low, high = _bracket(reach, lambda shift: enough(raised(gates, chosen, shift)))
    least = reach / 2**_HALVINGS
    for _ in range(_HALVINGS):
        if known_values((high - low) <= least):
            break
        middle = (low + high) / 2
        is_there = enough(raised(gates, chosen, middle))
        low, high = torch.where(is_there, low, middle), torch.where(is_there, middle, high)
    return raised(gates, chosen, torch.where(already, 0.0, high))


def _bracket(reach: Tensor, enough: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """A shift that is too small, and the first of a rising series that is not."""
    low, high = torch.zeros_like(reach), (reach * 0 + _FIRST).minimum(reach)
    while known_values(high < reach) and not known_values(enough(high)):
        low, high = high, (4 * high).minimum(reach)
    return low, high


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
