"""Traces of small modules, for tests that follow units by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import l0func as l0
from l0func.pure.inputs import Inputs
from l0func.tracing.follow import follow
from l0func.tracing.trace import Trace


class Between(nn.Module):
    """A function between two layers: the first makes units, the last reads them."""

    def __init__(self, first: nn.Module, function: Callable[..., Any], last: nn.Module) -> None:
        super().__init__()
        self.first, self.function, self.last = first, function, last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


class Scaled(nn.Module):
    """A function of a hidden layer and of a parameter, between two layers."""

    def __init__(self, scale: Tensor, function: Callable[..., Any], width: int = 6) -> None:
        super().__init__()
        self.scale, self.function = nn.Parameter(scale), function
        self.first, self.last = nn.Linear(4, width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x), self.scale))


def traced(module: nn.Module, *inputs: Any) -> Trace:
    fn, params, buffers = l0.make_functional(module.eval())
    return follow(fn, params, buffers, Inputs(inputs, {}))


def units(trace: Trace, path: str, dim: int) -> list[int]:
    """The unit of every slice along a dimension of a parameter."""
    return trace.units.roots(trace.slices[path, dim].labels).tolist()


def reason(trace: Trace, path: str, dim: int = 0) -> str:
    """Why the units along a dimension cannot be removed; they share one reason, or have none."""
    reasons = {trace.units.reason(unit) or "" for unit in units(trace, path, dim) if unit >= 0}
    assert len(reasons) == 1, reasons
    return reasons.pop()


def sources(trace: Trace) -> list[int]:
    """For each column of ``last`` the number of the row of ``first`` that makes its unit.

    -1 is a column that reads another unit or none.
    """
    rows = units(trace, "first.weight", 0)
    return [rows.index(u) if u in rows else -1 for u in units(trace, "last.weight", 1)]


def between(function: Callable[..., Any], width: int = 6, out: int | None = None) -> Trace:
    """The trace of a function between two linear layers, on two rows."""
    last = nn.Linear(width if out is None else out, 2)
    return traced(Between(nn.Linear(4, width), function, last), torch.ones(2, 4))
