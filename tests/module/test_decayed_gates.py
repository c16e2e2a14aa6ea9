"""An optimizer that decays gates pulls them to log_alpha = 0; its first step warns."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

import l0func as l0
from l0func.module import watch


def made() -> l0.L0Module:
    torch.manual_seed(0)
    return l0.L0Module(nn.Sequential(nn.Linear(4, 3)), lam=0.1, seed=0)


def step(net, optimizer):
    net(torch.ones(2, 4)).sum().backward()
    optimizer.step()


COPIES = {
    "itself": lambda net: net,
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
}


@pytest.mark.parametrize("made_from", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_an_optimizer_that_decays_gates_warns_once(kind, made_from):
    net = made_from(made())
    optimizer = kind(net.parameters(), lr=0.1, weight_decay=0.01)
    with pytest.warns(UserWarning, match=rf"This {kind.__name__} decays '0.bias', '0.weight'"):
        step(net, optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(net, optimizer)


def test_an_optimizer_that_decays_weights_alone_does_not_warn():
    net = made()
    groups = [
        {"params": net.weights().values(), "weight_decay": 0.01},
        {"params": net.gates().values(), "weight_decay": 0.0},
    ]
    before = {name: gate.detach().clone() for name, gate in net.gates().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(net, torch.optim.AdamW(groups, lr=0.1))
        step(net, torch.optim.Adam(net.parameters(), lr=0.1))
    assert any(not torch.equal(gate, before[name]) for name, gate in net.gates().items())


def test_gates_that_no_step_moves_are_not_decayed():
    net = made()
    for gate in net.gates().values():
        gate.requires_grad_(False)
    before = {name: gate.clone() for name, gate in net.gates().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(net, torch.optim.AdamW(net.parameters(), lr=0.1))
    assert all(torch.equal(gate, before[name]) for name, gate in net.gates().items())


def test_nothing_is_watched_when_the_module_is_gone():
    before = len(watch._GATES)
    net = made()
    assert len(watch._GATES) == before + 2
    del net
    assert len(watch._GATES) == before
