"""Ways to choose the channels that stay: by learned gates, by magnitude, at random, and all."""

from __future__ import annotations

from collections.abc import Callable

import torch
from efficientnet_train import Cut, Gated, Tensors, Work, channels, cut, trained, tuned
from torch import Tensor, nn

import l0func as l0

OPEN, CLOSED = 20.0, -20.0
"""Locations at which a hard concrete gate is exactly 1, and exactly 0."""


def learned(module: nn.Module, work: Work, share: float) -> Cut:
    """Gates learn at the price of their multiply-adds while the weights train on."""
    images, steps = work.images(), work.steps
    gated = channels(module, images)
    start = l0.init_gates(l0.random.key(work.seed), gated.spec, droprate=0.05)
    start = {name: gate.to(work.device) for name, gate in start.items()}
    price = {"lr": 0.2, "damping": 0.5, "warmup": steps.gates // 2}
    control = l0.lagrangian(gated.spec, share, measure="macs", counts=gated.counts, **price)
    state = trained(module, work, steps.gates, "gates", gated.spec, start, control)
    found = cut(module, state.params, state.gates, state.buffers, gated, images)
    small = tuned(found.small, work, steps.tune, "tune")
    return found._replace(small=small)


def magnitude(module: nn.Module, work: Work, share: float) -> Cut:
    """Each layer keeps an equal share of its channels: those with the largest weights."""
    params = dict(module.named_parameters())

    def scores(gated: Gated) -> Tensors:
        return {name: norms(group, params) for name, group in gated.groups.items()}

    return ranked(module, work, share, scores)


def norms(group: object, params: Tensors) -> Tensor:
    """The norm of each channel's weights, in all convolutions that make or read it."""
    squares = []
    for path, rules in (*group.multiplies, *group.owns):
        if path in params and params[path].dim() == 4:
            rows = params[path].detach().movedim(rules[0].dim, 0)
            squares.append(rows.flatten(1).square().sum(1))
    return torch.stack(squares).sum(0).sqrt()


def random(module: nn.Module, work: Work, share: float) -> Cut:
    """Each layer keeps an equal share of its channels, whichever."""

    def scores(gated: Gated) -> Tensors:
        key, drawn = l0.random.key(1000 + work.seed), {}
        for number, (name, size) in enumerate(gated.groups.sizes.items()):
            drawn[name] = l0.random.uniform(l0.random.fold_in(key, number), size)
        return drawn

    return ranked(module, work, share, scores)


def ranked(module: nn.Module, work: Work, share: float, scores: Callable[[Gated], Tensors]) -> Cut:
    """The channels with the highest scores, and as many steps of training as behind gates."""
    images, steps = work.images(), work.steps
    gated = channels(module, images)
    ranks = {name: score.argsort().argsort() for name, score in scores(gated).items()}
    gates = kept(ranks, share, gated)
    gates = {name: gate.to(work.device) for name, gate in gates.items()}
    _, params, buffers = l0.make_functional(module.eval())
    found = cut(module, params, gates, buffers, gated, images)
    small = tuned(found.small, work, steps.gates + steps.tune, "tune")
    return found._replace(small=small)


def kept(ranks: Tensors, share: float, gated: Gated) -> Tensors:
    """Gates open for as many of the highest ranks as the multiply-adds allow."""
    low, high, gates = 0.0, 1.0, {}
    for _ in range(12):
        middle = (low + high) / 2
        tried = {name: opened(rank, middle) for name, rank in ranks.items()}
        fits = l0.realised_macs(tried, gated.spec, gated.counts) <= share * gated.counts.total
        low, high = (middle, high) if fits else (low, middle)
        gates = tried if fits else gates
    return gates


def opened(rank: Tensor, share: float) -> Tensor:
    """Open for a share of the highest ranks, and for one at least."""
    closed = min(round(len(rank) * (1 - share)), len(rank) - 1)
    return torch.where(rank >= closed, OPEN, CLOSED)


def whole(module: nn.Module, work: Work, share: float) -> Cut:
    """The whole network after as many steps, beside which a smaller one must be measured."""
    steps = work.steps.gates + work.steps.tune
    return Cut(tuned(module, work, steps, "whole"), {}, {}, 0.0)


METHODS = {"learned": learned, "magnitude": magnitude, "random": random, "whole": whole}
