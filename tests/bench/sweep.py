"""Sixteen values of λ as one vmapped run against the sixteen runs one after another: steps with
Adam, interleaved.

    python tests/bench/sweep.py

Prints how many times faster the one run is, eager and compiled, and the largest relative
difference of a member to its own run; and three seeds of LeNet-5-Caffe, all at once against
``chunk_size=1``."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import l0func as l0

MEMBERS, ROUNDS, STEPS = 16, 12, 5
LAMS = torch.logspace(-6, -3, MEMBERS)


class Case:
    """An MLP on the digits' shapes, its plan, and two ways to train sixteen of it."""

    def __init__(self, rules: Any, batch: int, compile: bool) -> None:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        self.fn, self.params, self.buffers = l0.make_functional(module)
        self.spec = l0.gate_spec(self.params, rules)
        apply = l0.gated(self.fn, self.spec)
        self.x, self.y = torch.randn(batch, 64), torch.randint(10, (batch,))

        def loss(
            params: Any, gates: Any, buffers: Any, key: Tensor, x: Tensor, y: Tensor, lam: Tensor
        ) -> Tensor:
            return F.cross_entropy(
                apply(params, gates, buffers, key, x), y
            ) + lam * l0.expected_l0(gates, self.spec)

        adams = [l0.optimizer(torch.optim.Adam, lr=rate, fused=True) for rate in (1e-3, 1e-2)]
        self.single = l0.training(loss, *adams, compile=compile, donate=True)
        self.sweep = l0.training(
            loss, *adams, in_dims=(None, None, 0), compile=compile, donate=True
        )

    def starts(self) -> list[Any]:
        gates = l0.init_gates(l0.random.key(0), self.spec, droprate=0.2)
        return [
            self.single.init(l0.random.key(1), self.params, gates, self.buffers)
            for _ in range(MEMBERS)
        ]

    def alone(self, states: list[Any], steps: int) -> list[Any]:
        for _ in range(steps):
            states = [
                self.single.step(s, self.x, self.y, lam)[0]
                for s, lam in zip(states, LAMS, strict=True)
            ]
        return states

    def together(self, states: Any, steps: int) -> Any:
        for _ in range(steps):
            states, _ = self.sweep.step(states, self.x, self.y, LAMS)
        return states


def seconds(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def measured(rules: Any, batch: int, compile: bool) -> dict[str, float]:
    case = Case(rules, batch, compile)
    alone, together = case.alone(case.starts(), 3), case.together(l0.stack(case.starts()), 3)
    far = max(
        float((mine.params[path] - weight).norm() / weight.norm())
        for mine, own in zip(l0.unstack(together), alone, strict=True)
        for path, weight in own.params.items()
    )
    times = {"alone": [], "together": []}
    for _ in range(ROUNDS):
        times["alone"].append(seconds(lambda: case.alone(alone, STEPS)))
        times["together"].append(seconds(lambda: case.together(together, STEPS)))
    medians = {name: statistics.median(values[2:]) for name, values in times.items()}
    return {"faster": medians["alone"] / medians["together"], "difference": far}


def convolutions() -> float:
    """How many times faster three networks with convolutions are one at a time than all at once,
    compiled.
    """
    torch.manual_seed(0)
    pool = [nn.ReLU(), nn.MaxPool2d(2)]
    maps = [nn.Conv2d(1, 20, 5), *pool, nn.Conv2d(20, 50, 5), *pool, nn.Flatten()]
    module = nn.Sequential(*maps, nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10))
    fn, params, buffers = l0.make_functional(module)
    spec = l0.gate_spec(params, {"*.weight": l0.axis(1)})
    rows = l0.per_example(l0.gated(fn, spec))
    x, y = torch.rand(3, 100, 1, 28, 28), torch.randint(10, (3, 100))

    def loss(params: Any, gates: Any, buffers: Any, key: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(rows(params, gates, buffers, l0.random.split(key, 100), x), y)

    adams = [l0.optimizer(torch.optim.Adam, lr=1e-3, fused=True)] * 2
    gates = l0.init_gates(l0.random.key(0), spec)
    times: dict[int | None, list[float]] = {None: [], 1: []}
    steps = {
        size: l0.training(loss, *adams, in_dims=(0, 0), chunk_size=size, compile=True).step
        for size in times
    }
    start = l0.stack(
        [
            l0.training(loss, *adams).init(l0.random.key(i), params, gates, buffers)
            for i in range(3)
        ]
    )
    for _ in range(ROUNDS):
        for size, step in steps.items():
            times[size].append(seconds(lambda step=step: step(start, x, y)))
    medians = {size: statistics.median(values[2:]) for size, values in times.items()}
    return medians[None] / medians[1]


def main() -> None:
    cases = {
        "a gate per weight, B 100": ({"*.weight": l0.element()}, 100),
        "a gate per input, B 32": ({"*.weight": l0.axis(1)}, 32),
    }
    found = {}
    for name, (rules, batch) in cases.items():
        for compile in (False, True):
            road = f"{name}, {'compiled' if compile else 'eager'}"
            found[road] = measured(rules, batch, compile)
            print(
                f"{road}: {found[road]['faster']:.2f}x faster, apart by "
                f"{found[road]['difference']:.1e}"
            )
    found["LeNet-5-Caffe, three seeds, chunk_size=1"] = {"faster": convolutions()}
    print(
        f"LeNet-5-Caffe, three seeds, one at a time over all at once: "
        f"{found['LeNet-5-Caffe, three seeds, chunk_size=1']}"
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
