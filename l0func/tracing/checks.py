"""Checks that wait for the end of a trace, when it is known which labels mean one unit.

A norm over the dimensions of every attention head runs inside units, but only the product of
queries and keys, later on, shows that these dimensions are one unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from l0func.tracing.units import INPUT, Units, runs_over_units, varies, without_repeats
from l0func.tracing.written_norms import WrittenNorm


class Check(Protocol):
    """A check of labels, and a request to keep their units if it fails."""

    def settle(self, units: Units) -> None:
        """Ask to keep the units if the check fails.

        Args:
            units: The units after all ties of the forward pass.
        """
        ...


class RunsInsideUnits(NamedTuple):
    """An operation runs over dimensions: a softmax, a sum, a norm. All of them are in one unit.

    Attributes:
        labels: The labels of its input.
        dims: The dimensions, as numbers from 0.
        reason: Why the units cannot be removed if the check fails.
        step: The step that asks.
    """

    labels: Tensor
    dims: Sequence[int]
    reason: str
    step: int | None

    def settle(self, units: Units) -> None:
        """See :class:`Check`."""
        roots = units.roots(without_repeats(self.labels))
        is_single = not any(varies(roots, d) for d in range(roots.dim()))
        # A single unit could not go in any case: the operation is the better reason.
        if is_single or runs_over_units(units, self.labels, self.dims):
            units.fix(self.labels, self.reason, self.step)


class SpreadsInsideUnits(NamedTuple):
    """A unit is broadcast over elements: they are its own, or those of inputs.

    Attributes:
        labels: The labels that are broadcast.
        over: The labels of the elements, as many dimensions.
        reason: Why the unit cannot be removed if the check fails.
        step: The step that asks.
        norm: The norm, if the labels are those of its statistic. If it runs over units, it asks
            for itself.
    """

    labels: Tensor
    over: Tensor
    reason: str
    step: int | None
    norm: WrittenNorm | None = None

    def settle(self, units: Units) -> None:
        """See :class:`Check`."""
        if self.norm is not None and self.norm.is_over_units(units):
            return
        roots = units.roots(without_repeats(self.labels))
        over = units.roots(without_repeats(self.over))
        if not bool((roots != INPUT).any()) or not bool((roots != over).any()):
            return
        if _lie_inside(over, roots):
            # One number for each head, such as a temperature: it goes with its head.
            units.tie(roots, over)
        else:
            units.fix(self.labels, self.reason, self.step)


def _lie_inside(over: Tensor, roots: Tensor) -> bool:
    """Whether the elements that each of these labels is spread over are of one unit."""
    spread = [d for d in range(roots.dim()) if roots.shape[d] == 1]
    has_no_units = not bool((over >= 0).all())
    return not has_no_units and not any(varies(over, d) for d in spread)
