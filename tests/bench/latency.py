"""What a latency table predicts, against the time of the compacted network: 8 random allocations.

    python tests/bench/latency.py [--seconds 40] [--cpu-time] [--json]

Two networks, each compacted to 8 random allocations that the table has not seen. The contender
times every layer alone, dense and at the widths that it has in the smaller network, and adds the
differences to the dense network's time. ``--cpu-time`` takes the CPU time of one thread as the
clock, for a machine that is busy; without it the clock is that on the wall. Networks take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import command_line as cli
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import l0func as l0
from l0func.timing.clocks import WallClock
from l0func.timing.latency_table import measured_table

ALLOCATIONS = 8


class CpuClock(WallClock):
    """The CPU time of this thread."""

    def mark(self) -> float:
        return time.thread_time()


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, _ = x.shape
        q, k, v = (
            layer(x).view(rows, length, self.heads, -1).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(rows, length, -1))


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.into, self.out = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.out(F.gelu(self.into(self.norm2(x))))


def networks() -> dict[str, tuple[nn.Module, Tensor]]:
    from resnet import resnet

    torch.manual_seed(0)
    encoder = nn.Sequential(*(Layer(192, 12, 768) for _ in range(3)))
    return {
        "ResNet": (resnet(64).eval(), torch.randn(32, 1, 8, 8)),
        "encoder": (encoder.eval(), torch.randn(8, 32, 192)),
    }


def medians(calls: list[Callable[[], Any]], clock: WallClock, repeats: int) -> list[float]:
    """Milliseconds of each call, in turns; each is called once before it is timed."""
    times: list[list[float]] = [[] for _ in calls]
    with torch.inference_mode():
        for _ in range(repeats):
            for call, own in zip(calls, times, strict=True):
                call()
                start = clock.mark()
                call()
                own += clock.spans([start, clock.mark()])
    return [statistics.median(own) for own in times]


def alone(module: nn.Module, x: Tensor, clock: WallClock) -> float:
    """The sum of all layers' times, each called alone on inputs of its shape, in milliseconds."""
    shapes: list[tuple[nn.Module, torch.Size]] = []

    def note(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        shapes.append((layer, args[0].shape))

    leaves = [m for m in module.modules() if not list(m.children())]
    handles = [leaf.register_forward_hook(note) for leaf in leaves]
    with torch.inference_mode():
        module(x)
    for handle in handles:
        handle.remove()
    calls = [partial(layer, torch.randn(shape)) for layer, shape in shapes]
    return sum(medians(calls, clock, 7))


def allocation(spec: l0.GateSpec, number: int) -> dict[str, Tensor]:
    """Gates with a random number of units in each group open."""
    gates: dict[str, Tensor] = {}
    for gate in spec.gates:
        key = l0.random.fold_in(l0.random.key(number), gate.stream)
        draws = l0.random.uniform(key, (gate.size + 1,))
        units = max(1, round(float(draws[-1]) * gate.size))
        rank = draws[:-1].argsort().argsort()
        gates[gate.name] = torch.where(rank < units, 5.0, -20.0)
    return gates


def rank_correlation(a: list[float], b: list[float]) -> float:
    ranks = [torch.tensor(values).argsort().argsort().double() for values in (a, b)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def report(name: str, predicted: list[float], measured: list[float]) -> dict[str, float]:
    errors = [abs(p / m - 1) for p, m in zip(predicted, measured, strict=True)]
    row = {
        "median_error": statistics.median(errors),
        "largest_error": max(errors),
        "rank_correlation": rank_correlation(predicted, measured),
    }
    print(
        f"  {name:14} median error {row['median_error']:6.1%}, largest "
        f"{row['largest_error']:6.1%}, rank correlation {row['rank_correlation']:.2f}"
    )
    return row


def compare(module: nn.Module, x: Tensor, clock: WallClock, seconds: float) -> dict[str, Any]:
    groups = l0.unit_groups(module, x[:2])
    start = time.perf_counter()
    table = measured_table(module, groups, x, 1, seconds, clock)
    taken = time.perf_counter() - start
    fn, params, buffers = l0.make_functional(module)
    spec = l0.gate_spec(params, groups=groups, buffers=buffers)
    drawn = [allocation(spec, number) for number in range(ALLOCATIONS)]
    small = [l0.to_module(*l0.compact(fn, params, g, buffers, spec)) for g in drawn]
    dense, *measured = medians([partial(m, x) for m in (module, *small)], clock, repeats=25)
    print(f"  measured in {taken:.0f} s; dense {dense:.2f} ms, by the table {table.dense:.2f} ms")
    predicted = [l0.realised_ms(gates, spec, table) for gates in drawn]
    whole = alone(module, x, clock)
    lonely = [dense + alone(m, x, clock) - whole for m in small]
    relative = [ms / table.dense for ms in predicted]
    return {
        "seconds": taken,
        "dense": dense,
        "measured": measured,
        "predicted": predicted,
        "by_table": report("table", predicted, measured),
        "by_table_relative": report("table, / dense", relative, [ms / dense for ms in measured]),
        "by_layers_alone": report("layers alone", lonely, measured),
        "own_error": table.error,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=cli.positive, default=40.0)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    clock = CpuClock() if arguments.cpu_time else WallClock()
    result: dict[str, Any] = {}
    for name, (module, x) in networks().items():
        print(f"{name}, {'CPU' if arguments.cpu_time else 'wall'} time, one thread")
        result[name] = compare(module, x, clock, arguments.seconds)
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
