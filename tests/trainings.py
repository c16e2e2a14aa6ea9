"""A small network, its loss and its data, for tests of training."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

import l0func as l0

ADAM = torch.optim.Adam
X = l0.random.normal(l0.random.key(10), (8, 6))
Y = torch.arange(8) % 3


def network():
    torch.manual_seed(0)
    fn, params, buffers = l0.make_functional(
        nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    )
    spec = l0.gate_spec(params, {"*.weight": l0.element()})
    return fn, params, buffers, spec


def loss_of(fn, spec):
    rows = l0.per_example(l0.gated(fn, spec))

    def loss(params, gates, buffers, key, x, y, lam):
        output = rows(params, gates, buffers, l0.random.split(key, len(x)), x)
        return F.cross_entropy(output, y) + l0.penalty(params, gates, spec, lam)

    return loss


def trained(training, state, steps, *inputs):
    for _ in range(steps):
        state, _ = training.step(state, *inputs)
    return state


def of(net, **settings):
    return l0.training(
        loss_of(net[0], net[3]),
        l0.optimizer(ADAM, lr=0.01),
        l0.optimizer(ADAM, lr=0.1),
        **settings,
    )


def start(training, net, seed=0):
    _, params, buffers, spec = net
    return training.init(
        l0.random.key(seed), params, l0.init_gates(l0.random.key(100 + seed), spec), buffers
    )
