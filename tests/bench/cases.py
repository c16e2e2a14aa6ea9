"""What the benchmarks of masks share: contenders in turns, and a network with its ways to step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import l0func as l0
from l0func import random

Step = Callable[[], Any]


def medians(contenders: dict[str, Step], rounds: int) -> dict[str, float]:
    """Median seconds of each contender, one call of every contender a round."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 2):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[2:]) for name, values in times.items()}


def paper(u: Tensor, log_alpha: Tensor) -> Tensor:
    """The paper's gate, as a user would write it."""
    return (torch.sigmoid((torch.logit(u) + log_alpha) / (2 / 3)) * 1.2 - 0.1).clamp(0, 1)


class Case:
    """A network, its gates, a batch, and the ways to take a step on it."""

    def __init__(self, module: nn.Module, x: Tensor, rules: Any, distribution: Any = None) -> None:
        self.fn, self.params, self.buffers = l0.make_functional(module)
        # Without a distribution: the hard concrete, and a user's own formula for it in vmap.
        own = {} if distribution is None else {"distribution": distribution}
        self.spec = l0.gate_spec(self.params, rules, **own)
        self.quantile = paper if distribution is None else distribution.quantile
        self.gates = l0.init_gates(random.key(0), self.spec)
        self.x, self.key = x, random.key(1)
        self.leaves = [t.requires_grad_() for t in (*self.params.values(), *self.gates.values())]

    def step(self, output: Callable[[], Tensor]) -> Step:
        """Forward and backward."""

        def run() -> None:
            output().sum().backward()
            for leaf in (*self.leaves, self.x):
                leaf.grad = None

        return run

    def ungated(self, compiled: bool = False) -> Step:
        def call(params: Any, x: Tensor) -> Tensor:
            return self.fn(params, self.buffers, x)

        run = torch.compile(call) if compiled else call
        return self.step(lambda: run(self.params, self.x))

    def rows(self, compiled: bool = False, **sampling: Any) -> Step:
        rows = l0.per_example(l0.gated(self.fn, self.spec, **sampling))

        def call(params: Any, gates: Any, key: Tensor, x: Tensor) -> Tensor:
            return rows(params, gates, self.buffers, random.split(key, len(x)), x)

        run = torch.compile(call, fullgraph=True) if compiled else call
        return self.step(lambda: run(self.params, self.gates, self.key, self.x))

    def vmap(self, compiled: bool = False) -> Step:
        def row(params: Any, gates: Any, x: Tensor) -> Tensor:
            drawn = {n: self.quantile(torch.rand(la.shape), la) for n, la in gates.items()}
            masked = {name: p * drawn[name] if name in drawn else p for name, p in params.items()}
            return torch.func.functional_call(self.module, masked, (x[None],))[0]

        self.module = self.fn.module(self.params, self.buffers)
        mapped = torch.vmap(row, (None, None, 0), randomness="different")
        run = torch.compile(mapped) if compiled else mapped
        return self.step(lambda: run(self.params, self.gates, self.x))

    def draws_alone(self) -> Step:
        """All gates of a forward and a backward pass, drawn and forgotten."""
        [gate] = self.spec.gates
        la = self.gates[gate.name].detach()
        keys = random.split(self.key, len(self.x))
        # As many at a time as share a chunk of memory.
        parts = keys.split(16)

        def run() -> None:
            for part in (*parts, *parts):
                torch.vmap(gate.distribution.sample, (0, None))(part, la)

        return run


def lenet() -> nn.Module:
    return nn.Sequential(
        *(
            nn.Conv2d(1, 20, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(20, 50, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ),
        *(nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)),
    )


ENTRIES = {"*weight": l0.element(), "*": None}
CHANNELS = {
    "3.weight": l0.axis(1),
    "7.weight": l0.blocks(1, 16),
    "9.weight": l0.axis(1),
    "*": None,
}
