"""Settings of L0Module with a wrong kind are refused where they are set."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import l0func as l0


def build(**settings):
    return l0.L0Module(nn.Linear(3, 2), lam=1e-3, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": "a"}, r"epsilon is a number; got 'a' \(str\)"),
        ({"generator": 3}, r"generator is a torch.Generator; got 3 \(int\).* goes in as seed"),
        ({"generator": "cpu"}, r"generator is a torch.Generator; got 'cpu'"),
        ({"per_example": "no"}, r"per_example is True or False; got 'no' \(str\)"),
        ({"per_example": None}, r"per_example is True or False; got None"),
    ],
)
def test_a_setting_of_another_kind_is_named(settings, message):
    with pytest.raises(TypeError, match=message):
        build(**settings)


@pytest.mark.parametrize("flag", [True, False, 1, 0, np.bool_(True)])
def test_every_true_and_false_is_a_flag(flag):
    outputs = build(per_example=flag, seed=0)(torch.ones(4, 3))
    assert outputs.unique(dim=0).shape[0] == (4 if flag else 1)


@pytest.mark.parametrize("draw", [0, -1])
def test_there_is_no_draw_before_the_first(draw):
    with pytest.raises(ValueError, match="first forward in training is draw 1; got"):
        build(seed=0).key_of(draw)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("per_example", "yes", r"per_example is True or False; got 'yes' \(str\)"),
        ("per_example", 2, r"per_example is True or False; got 2"),
        ("in_dims", "0", "in_dims says where the rows are.*got str"),
        ("out_dims", torch.zeros(1), "out_dims says where the rows are.*got Tensor"),
    ],
)
def test_a_setting_of_another_kind_is_refused_later_too(name, value, message):
    net = build(per_example=True, seed=0)
    before = getattr(net, name)
    with pytest.raises(TypeError, match=message):
        setattr(net, name, value)
    assert getattr(net, name) == before


def test_a_setting_of_rows_that_is_changed_later_counts_and_is_copied():
    net = build(seed=0)
    net.per_example = True
    for own in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        x = own(torch.ones(4, 3))
        assert own.per_example
        assert not torch.equal(x[0], x[1])


@pytest.mark.parametrize("settings", [{}, {"per_example": True}])
@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("around", [lambda net: net, nn.Sequential], ids=["alone", "inside"])
def test_symbolic_tracing_is_refused_with_what_to_trace(around, mode, settings):
    net = build(seed=0, **settings).train(mode)
    with pytest.raises(ValueError, match=r"symbolic_trace cannot.*net\.compacted\(\)"):
        torch.fx.symbolic_trace(around(net))
    assert torch.fx.symbolic_trace(net.compacted())(torch.ones(4, 3)).shape == (4, 2)
