"""Programs that record one forward: in training they would have one draw for ever."""

from __future__ import annotations

import pytest
import torch
from device import WHOLE_MODULES
from torch import nn

import l0func as l0
from l0func.internal.context import compiles


def made(per_example: bool) -> tuple[l0.L0Module, torch.Tensor]:
    torch.manual_seed(0)
    net = l0.L0Module(nn.Linear(20, 3), lam=0.0, seed=0, per_example=per_example)
    return net, torch.randn(4, 20)


def exported(net, x):
    return torch.export.export(net, (x,), strict=False).module()


def strictly_exported(net, x):
    return torch.export.export(net, (x,), strict=True).module()


def traced(net, x):
    return torch.jit.trace(net, (x,))


TRIED = pytest.mark.skipif(not compiles(), reason="export was tried on torch 2.9 and later")
EXPORTS = [
    pytest.param(exported, marks=TRIED, id="exported"),
    pytest.param(strictly_exported, marks=[TRIED, WHOLE_MODULES], id="strictly_exported"),
]


@pytest.mark.compiles
@pytest.mark.parametrize("per_example", [False, True])
@pytest.mark.parametrize("way", [*EXPORTS, traced])
def test_a_module_in_training_is_not_recorded(way, per_example):
    net, x = made(per_example)
    with pytest.raises(ValueError, match=r"masks of one draw for ever. Call net.eval\(\) first"):
        way(net, x)


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects:UserWarning")
@pytest.mark.parametrize("way", [*EXPORTS, traced])
def test_a_module_in_eval_mode_is_recorded_as_it_is(way):
    net, x = made(per_example=True)
    net.eval()
    torch.testing.assert_close(way(net, x)(x), net(x))
