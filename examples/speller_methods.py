"""Which units of the speller stay: by learned gates, by magnitude, or at random."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from speller_distillation import Batches, distillation
from speller_network import LETTERS, PHONEMES, Speller
from speller_words import Examples
from torch import Tensor
from tqdm import tqdm

import l0func as l0

Tensors = dict[str, Tensor]
METHODS = ("learned", "magnitude", "random")
OPEN = 12.0
"""A location at which a gate is open and does not scale."""


class Gated(NamedTuple):
    """A speller with a gate on every unit."""

    fn: Any
    params: Tensors
    gates: Tensors
    buffers: Tensors
    spec: l0.GateSpec

    def share_of(self, count: float) -> float:
        """The share of gated entries that stays if this many entries of all do."""
        gates = {p.path for p in self.spec.gated()}
        free = sum(p.numel() for path, p in self.params.items() if path not in gates)
        return (count - free) / sum(self.params[path].numel() for path in gates)

    def compacted(self, examples: Examples, density: float | None) -> Speller:
        """The speller without closed units."""
        two = tuple(t[:2] for t in examples)
        small = l0.compact(*self, density=density, example_inputs=two)
        return l0.to_module(*small)

    def refitted(self, examples: Examples, density: float | None) -> Gated:
        """Readers of closed units fitted to what they read before."""
        return self._replace(params=l0.refit(*self, examples, density=density))


def gated(speller: Speller) -> Gated:
    """Gates on the units of both embeddings, and on the recurrent units.

    The encoder's last state starts the decoder, so the units of both are one group.
    """
    fn, params, buffers = l0.make_functional(speller)
    ones = speller.letters.weight.new_ones(2, 3, dtype=torch.long)
    spec = l0.gate_spec(params, groups=l0.unit_groups(speller, ones, ones))
    gates = l0.init_gates(l0.random.key(0).to(ones.device), spec, droprate=0.1)
    return Gated(fn, params, gates, buffers, spec)


def narrowed(speller: Speller, examples: Examples) -> Speller:
    """The same function with narrower embeddings.

    A table of 29 letters has rank 29, so after a refit a few more units say all that 256 did.
    """
    network = by_magnitude(gated(speller))
    counts = {"letters": len(LETTERS) + 3, "phonemes": len(PHONEMES)}
    gates = dict(network.gates)
    for name, count in counts.items():
        least = gates[name].sort().values[-count]
        gates[name] = torch.where(gates[name] >= least, OPEN, -OPEN)
    return network._replace(gates=gates).refitted(examples, None).compacted(examples, None)


def learned(network: Gated, batches: Batches, share: float, seed: int, steps: int) -> Gated:
    """Weights and gates trained together, until this share of the weights is left."""
    adams = [
        l0.optimizer(torch.optim.Adam, lr=1e-3, fused=True),
        l0.optimizer(torch.optim.Adam, lr=0.05),
    ]
    warmup = steps // 2
    control = l0.lagrangian(network.spec, share, lr=0.03, damping=30.0, warmup=warmup)
    loss = distillation(l0.gated(network.fn, network.spec))
    init, step = l0.training(loss, *adams, control=control, clip=l0.clip_norm(1.0), donate=True)
    key = l0.random.key(seed).to(network.params["out.bias"].device)
    state = init(key, network.params, network.gates, network.buffers)
    bar = tqdm(range(steps), "gates", unit="step")
    for number in bar:
        state, _ = step(state, *batches.batch(number))
        if number % 100 == 99:
            bar.set_postfix(units_open(network.spec, state.gates))
    return network._replace(params=state.params, gates=state.gates)


def units_open(spec: l0.GateSpec, gates: Tensors) -> dict[str, int]:
    """In every group the number of units that are likelier open than closed."""
    counts: dict[str, int] = {}
    for gate in spec.gates:
        chances = gate.distribution.prob_nonzero(gates[gate.name])
        counts[gate.name] = int((chances > 0.5).sum())
    return counts


def by_magnitude(network: Gated) -> Gated:
    """In every group the same share of units: those with the largest sum of squares."""
    zeros: Tensors = {}
    for name, gate in network.gates.items():
        zeros[name] = torch.zeros_like(gate).requires_grad_()
    squares = l0.expected_l2(network.params, zeros, network.spec)
    # The slope in a gate is the sum of squares behind it, times a constant.
    slopes = torch.autograd.grad(squares, list(zeros.values()))
    return _ordered(network, dict(zip(zeros, slopes, strict=True)))


def at_random(network: Gated, seed: int) -> Gated:
    """In every group the same share of units, drawn."""
    draws: Tensors = {}
    for number, (name, gate) in enumerate(network.gates.items()):
        key = l0.random.fold_in(l0.random.key(seed), number)
        draws[name] = l0.random.uniform(key.to(gate.device), gate.shape)
    return _ordered(network, draws)


def _ordered(network: Gated, scores: Tensors) -> Gated:
    """Gates that are open, in the order of the scores within their group."""
    gates: Tensors = {}
    for name, score in scores.items():
        gates[name] = OPEN + score.argsort().argsort() / len(score)
    return network._replace(gates=gates)
