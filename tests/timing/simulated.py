"""A clock that a network's own layers move: the oracle for tables of times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import l0func as l0
from l0func.timing.latency_table import measured_table

Cost = Callable[[int, int], float]


class SimulatedClock:
    """A clock that stands still unless a layer moves it; milliseconds."""

    now = 0.0
    slowdown = 1.0

    def wait(self) -> None: ...

    def mark(self) -> float:
        return SimulatedClock.now

    def spans(self, marks: Sequence[float], /) -> list[float]:
        return [after - before for before, after in pairwise(marks)]


def bilinear(into: int, out: int) -> float:
    return 0.5 + 0.02 * into + 0.03 * out + 0.004 * into * out


def stairs(into: int, out: int) -> float:
    """Whole vectors of eight, as processors compute them."""
    return bilinear(8 * -(-into // 8), 8 * -(-out // 8))


class Costly(nn.Linear):
    """A linear layer that moves the clock by its cost."""

    cost: Cost = staticmethod(bilinear)

    def forward(self, x: Tensor) -> Tensor:
        out, into = self.weight.shape
        SimulatedClock.now += SimulatedClock.slowdown * self.cost(into, out)
        return F.linear(x, self.weight, self.bias)


class Stepped(Costly):
    cost: Cost = staticmethod(stairs)


class Drifting(Costly):
    """The machine becomes slower with every call."""

    def forward(self, x: Tensor) -> Tensor:
        SimulatedClock.slowdown *= 1.001
        return super().forward(x)


def chain(kind: type[Costly], *sizes: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for into, out in pairwise(sizes):
        layers += [kind(into, out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def table_of(module: nn.Module, x: Tensor, multiple: int = 1) -> l0.LatencyTable:
    SimulatedClock.now, SimulatedClock.slowdown = 0.0, 1.0
    groups = l0.unit_groups(module, x)
    return measured_table(module, groups, x, multiple, 0.01, SimulatedClock())


def milliseconds(module: nn.Module, x: Tensor) -> float:
    """One call by the simulated clock."""
    SimulatedClock.slowdown = 1.0
    before = SimulatedClock.now
    module(x)
    return SimulatedClock.now - before
