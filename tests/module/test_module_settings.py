"""Settings of L0Module with a wrong kind are refused where the module is built."""

from __future__ import annotations

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
