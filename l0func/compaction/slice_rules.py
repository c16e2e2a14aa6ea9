"""Find the gate rules that describe where units lie along a tensor dimension.

``grouping`` uses them to write a group down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from l0func.internal.untyped import listed
from l0func.spec.rules import Rule, axis, blocks, tiles


class _Run(NamedTuple):
    """Consecutive indices."""

    start: int
    length: int


def rules_for(positions: Tensor, dim: int, size: int) -> list[Rule] | None:
    """The rules that give unit i the slices ``positions[i]``.

    Args:
        positions: Indices along a dimension, shape (units, slices of one unit).
        dim: The dimension.
        size: Its size.

    Returns:
        The rules, or None if no rules describe these positions.
    """
    units, slices = positions.shape
    if slices > 1 and units * slices == size and _is_tiled(positions):
        return [tiles(dim, slices)]
    rules: list[Rule] = []
    column = 0
    for run in _consecutive_runs(listed(positions[0])):
        of_run = positions[:, column : column + run.length]
        if not _is_side_by_side(of_run, run):
            return None
        rules.append(_run_rule(run, units, dim, size))
        column += run.length
    return rules


def _is_tiled(positions: Tensor) -> bool:
    """Whether unit i has the indices i, i + units, i + 2 units and so on."""
    units, slices = positions.shape
    first = torch.arange(units, device="cpu")[:, None]
    return torch.equal(positions, first + units * torch.arange(slices, device="cpu"))


def _is_side_by_side(positions: Tensor, run: _Run) -> bool:
    """Whether each unit's indices begin where those of the unit before it end."""
    starts = run.start + torch.arange(len(positions), device="cpu") * run.length
    return torch.equal(positions, starts[:, None] + torch.arange(run.length, device="cpu"))


def _run_rule(run: _Run, units: int, dim: int, size: int) -> Rule:
    end = run.start + units * run.length
    stop = None if end == size else end
    if run.length == 1:
        return axis(dim, run.start, stop)
    return blocks(dim, run.length, run.start, stop)


def _consecutive_runs(positions: Sequence[int]) -> list[_Run]:
    runs: list[_Run] = []
    for position in positions:
        if runs and position == runs[-1].start + runs[-1].length:
            start, length = runs.pop()
            runs.append(_Run(start, length + 1))
        else:
            runs.append(_Run(position, 1))
    return runs
