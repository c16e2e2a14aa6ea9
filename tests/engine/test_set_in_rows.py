"""``Tensor.set_`` on a row's tensor: torch shows it to no mode, loses it, and warns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import l0func as l0


class Replaced(nn.Linear):
    """A layer that replaces its output in place."""

    def forward(self, x):
        y = super().forward(x)
        y.set_(torch.full_like(y, 7.0))
        return y


def network():
    fn, params, buffers = l0.make_functional(Replaced(3, 2))
    spec = l0.gate_spec(params)
    return l0.gated(fn, spec), (params, l0.init_gates(l0.random.key(0), spec), buffers)


def test_a_single_mask_lets_set_replace_a_tensor():
    apply, trees = network()
    assert torch.equal(apply(*trees, l0.random.key(1), torch.ones(4, 3)), torch.full((4, 2), 7.0))


def test_torch_warns_where_set_on_a_row_is_lost():
    apply, trees = network()
    keys = l0.random.split(l0.random.key(1), 4)
    with pytest.warns(UserWarning, match="batching rule for aten::set_"):
        l0.per_example(apply)(*trees, keys, torch.ones(4, 3))
