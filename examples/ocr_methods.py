"""Which units of the reader stay: by learned gates, by magnitude, or at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from ocr_network import Reader
from ocr_train import Lessons, Tensors, trained
from torch import Tensor

import l0func as l0

METHODS = ("learned", "magnitude", "random")
RIDGE = 1e-3
FAR = 20.0
"""Gates at this location are open, or closed at the negative one, and scale nothing."""


class Gated(NamedTuple):
    """A reader with a gate on every channel and on every recurrent unit."""

    fn: Any
    params: Tensors
    gates: Tensors
    buffers: Tensors
    spec: l0.GateSpec

    def open_units(self) -> dict[str, int]:
        """In every group the number of units that stay."""
        found: dict[str, int] = {}
        for gate in self.spec.gates:
            z = gate.distribution.deterministic(self.gates[gate.name])
            found[gate.name] = int((z != 0).sum())
        return found

    def refitted(self, images: Tensor) -> Gated:
        """Readers of closed units fitted to what they read before."""
        return self._replace(params=l0.refit(*self, images, ridge=RIDGE))

    def compacted(self) -> Reader:
        """The reader without its closed units."""
        return l0.to_module(*l0.compact(*self))


def gated(reader: Reader, images: Tensor) -> Gated:
    """Gates that start open."""
    fn, params, buffers = l0.make_functional(reader)
    groups = l0.unit_groups(reader, images[:2, :, :, :32])
    spec = l0.gate_spec(params, groups=groups, buffers=buffers)
    gates = l0.init_gates(l0.random.key(0), spec, droprate=0.05)
    return Gated(fn, params, {n: g.to(images.device) for n, g in gates.items()}, buffers, spec)


def learned(
    network: Gated, lessons: Lessons, counts: l0.MacCounts, share: float, steps: range
) -> Gated:
    """Gates learn at the price of their multiply-adds while a copy of the weights trains on."""
    price = {"lr": 0.2, "damping": 0.5, "warmup": len(steps) // 2}
    control = l0.lagrangian(network.spec, share, measure="macs", counts=counts, floor=4, **price)
    start = network.params, network.gates, network.buffers
    apply = l0.gated(network.fn, network.spec)
    state = trained(apply, start, lessons, steps, "gates", 1e-3, control)
    # The original weights, fitted again, read better than those that learned beside the gates.
    return chosen(network, state.gates, counts, share, settled)


def magnitudes(network: Gated) -> Tensors:
    """For every unit the sum of squares of the weights that make it or read it."""
    zeros = {name: torch.zeros_like(gate) for name, gate in network.gates.items()}
    zeros = {name: gate.requires_grad_() for name, gate in zeros.items()}
    squares = l0.expected_l2(network.params, zeros, network.spec)
    # The slope in a gate is the sum of squares behind it, times a constant.
    slopes = torch.autograd.grad(squares, list(zeros.values()))
    return dict(zip(zeros, slopes, strict=True))


def draws(network: Gated, seed: int) -> Tensors:
    found: Tensors = {}
    for number, (name, gate) in enumerate(network.gates.items()):
        key = l0.random.fold_in(l0.random.key(1000 + seed), number)
        found[name] = l0.random.uniform(key, gate.shape).to(gate.device)
    return found


def ranked(score: Tensor, level: float) -> Tensor:
    """Open for the highest ranks: a share of them, and one at least."""
    closed = min(round(len(score) * level), len(score) - 1)
    return torch.where(score.argsort().argsort() >= closed, FAR, -FAR)


def settled(gate: Tensor, level: float) -> Tensor:
    """Open for locations above a level in [-10, 10], and for the four highest."""
    least = gate.topk(4).values[-1]
    return torch.where((gate >= least) | (gate > 20 * level - 10), FAR, -FAR)


def chosen(
    network: Gated,
    scores: Tensors,
    counts: l0.MacCounts,
    share: float,
    opened: Callable[[Tensor, float], Tensor] = ranked,
) -> Gated:
    """Fixed gates: the highest scores stay, as many as the multiply-adds allow."""
    low, high = 0.0, 1.0
    for _ in range(20):
        level = (low + high) / 2
        gates = {name: opened(score, level) for name, score in scores.items()}
        fits = l0.realised_macs(gates, network.spec, counts) <= share * counts.total
        low, high = (low, level) if fits else (level, high)
    return network._replace(gates={name: opened(score, high) for name, score in scores.items()})


def gates_of(
    network: Gated, method: str, seed: int, lessons: Lessons, share: float, steps: int
) -> Gated:
    """The reader with fixed gates; its cost is that of one word of the commonest width."""
    counts = l0.count_macs(network.fn, network.params, network.buffers, lessons.examples(1))
    if method == "learned":
        return learned(network, lessons, counts, share, range(steps))
    scores = magnitudes(network) if method == "magnitude" else draws(network, seed)
    return chosen(network, scores, counts, share)
