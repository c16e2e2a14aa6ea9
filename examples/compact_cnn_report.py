"""The table and the picture of compact_cnn.py: a network before and after."""

from __future__ import annotations

import io
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from resnet import accuracy
from torch import Tensor, nn

import l0func as l0


class Trained(NamedTuple):
    """One gated network at the end of its training."""

    state: l0.TrainState
    history: list[dict[str, Tensor]]
    """The gates after each epoch."""
    small: nn.Module
    """The network without its closed units."""


def milliseconds(modules: list[nn.Module], x: Tensor) -> list[float]:
    """Medians of calls that take turns."""
    times: list[list[float]] = [[] for _ in modules]
    with torch.inference_mode():
        for _ in range(80):
            for own, module in zip(times, modules, strict=True):
                start = time.perf_counter()
                module(x)
                own.append(1000 * (time.perf_counter() - start))
    return [statistics.median(own[10:]) for own in times]


def bytes_on_disk(module: nn.Module) -> int:
    """Size of a state_dict."""
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    return file.tell()


def macs(module: nn.Module, x: Tensor) -> int:
    """Multiply-adds of one call."""
    return l0.count_macs(*l0.make_functional(module), x).total


def size(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


def measured(before: nn.Module, after: nn.Module, x: Tensor, y: Tensor) -> dict[str, list[float]]:
    """Numbers of both networks by name, printed as a table."""
    modules = [before.eval(), after.eval()]
    rows = {
        "parameters": [size(module) for module in modules],
        "multiply-adds, one image": [macs(module, x[:1]) for module in modules],
        "bytes on disk": [bytes_on_disk(module) for module in modules],
        "ms, batch of 1": milliseconds(modules, x[:1]),
        "ms, batch of 128": milliseconds(modules, x[:128]),
        "accuracy, %": [accuracy(module, x, y) for module in modules],
    }
    print(f"{'':26}{'before':>12}{'after':>12}{'ratio':>9}")
    for name, (first, last) in rows.items():
        digits = 0 if isinstance(first, int) else 2
        print(f"{name:26}{first:12,.{digits}f}{last:12,.{digits}f}{first / last:8.2f}×")
    return rows


def draw(
    picture: Path, spec: l0.GateSpec, run: Trained, points: list[tuple[float, float]]
) -> None:
    """Widths, densities and filters above; gates over training and the trade-off below."""
    params, gates = run.state.params, run.state.gates
    figure = Figure(figsize=(14, 8.4), layout="constrained")
    axes = figure.subplots(2, 3)
    convs = [name for name, p in params.items() if p.dim() == 4]
    before = {name: len(params[name]) for name in convs}
    after = {name: len(run.small.get_parameter(name)) for name in convs}
    l0.plot.widths(before, after, axes[0, 0])
    l0.plot.density(l0.summary(params, gates, spec), axes[0, 1], names=convs)
    l0.plot.filters(l0.prune(params, gates, spec)["0.0.weight"], axes[0, 2])
    opens = [open_probabilities(spec, then) for then in run.history]
    l0.plot.trajectories(range(1, len(opens) + 1), opens, axes[1, 0]).set_xlabel("epoch")
    l0.plot.open_probability(gates, spec, axes[1, 1])
    l0.plot.tradeoff({"penalties, and without": points}, axes[1, 2])
    figure.savefig(picture, dpi=80)


def open_probabilities(spec: l0.GateSpec, gates: dict[str, Tensor]) -> Tensor:
    """P(open) of every gate, one after another."""
    return torch.cat([gate.distribution.prob_nonzero(gates[gate.name]) for gate in spec.gates])
