"""Stochastic depth as timm, torchvision and others write it: one draw a row, from the key."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import l0func as l0
from l0func import random

B, KEEP = 4000, 0.75


def timm(x, training):
    """``timm.layers.drop_path``."""
    if not training:
        return x
    shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    mask = x.new_empty(shape).bernoulli_(KEEP)
    mask.div_(KEEP)
    return x * mask


def torchvision(x, training):
    """``torchvision.ops.stochastic_depth`` in mode "row"."""
    if not training:
        return x
    size = [x.shape[0]] + [1] * (x.ndim - 1)
    noise = torch.empty(size, dtype=x.dtype, device=x.device)
    noise = noise.bernoulli_(KEEP)
    noise.div_(KEEP)
    return x * noise


def torchvision_batch(x, training):
    """``torchvision.ops.stochastic_depth`` in mode "batch"."""
    if not training:
        return x
    noise = torch.empty([1] * x.ndim, dtype=x.dtype, device=x.device).bernoulli_(KEEP)
    return x * noise.div_(KEEP)


def efficientnet(x, training):
    """``drop_connect`` of EfficientNet-PyTorch."""
    if not training:
        return x
    draw = KEEP + torch.rand([x.shape[0], 1], dtype=x.dtype, device=x.device)
    return x / KEEP * torch.floor(draw)


class Net(nn.Module):
    def __init__(self, drop):
        super().__init__()
        self.weight, self.drop = nn.Parameter(torch.ones(3)), drop

    def forward(self, x):
        return self.drop(x * self.weight, self.training)


def built(drop):
    fn, params, buffers = l0.make_functional(Net(drop).train())
    spec = l0.gate_spec(params)
    gates = {"weight": torch.full((3,), 20.0)}
    return fn, l0.gated(fn, spec), (params, gates, buffers)


def check_rows(y):
    kept = (y != 0).all(1)
    assert_close(y, (kept[:, None] / KEEP).expand(-1, 3).float())
    share = kept.double().mean().item()
    assert abs(share - KEEP) < 5 * math.sqrt(KEEP * (1 - KEEP) / B)


@pytest.mark.parametrize("drop", [timm, torchvision, efficientnet])
def test_one_key_drops_its_share_of_rows(drop):
    _, apply, args = built(drop)
    y = apply(*args, random.key(0), torch.ones(B, 3))
    check_rows(y)
    assert torch.equal(y, apply(*args, random.key(0), torch.ones(B, 3)))
    assert not torch.equal(y, apply(*args, random.key(1), torch.ones(B, 3)))


@pytest.mark.parametrize("drop", [timm, torchvision, torchvision_batch, efficientnet])
def test_a_key_for_each_row_drops_its_share_of_rows(drop):
    _, apply, args = built(drop)
    keys = random.split(random.key(0), B)
    y = l0.per_example(apply)(*args, keys, torch.ones(B, 3))
    check_rows(y)
    alone = torch.cat([apply(*args, key, torch.ones(1, 3)) for key in keys[:5]])
    assert torch.equal(y[:5], alone)


def test_one_draw_serves_a_whole_batch_in_batch_mode():
    _, apply, args = built(torchvision_batch)
    found = {apply(*args, random.key(i), torch.ones(4, 3)).unique().item() for i in range(20)}
    assert found == {0.0, torch.tensor(1.0).div(KEEP).item()}


@pytest.mark.parametrize("drop", [timm, torchvision, torchvision_batch, efficientnet])
def test_eval_mode_and_calls_without_a_key(drop):
    fn, apply, (params, gates, buffers) = built(drop)
    x = torch.ones(4, 3)
    assert_close(fn.eval()(params, buffers, x), x)
    with pytest.raises(ValueError, match="there is no key to draw from"):
        fn(params, buffers, x)
    with pytest.raises(ValueError, match="there is no key to draw from"):
        apply(params, gates, buffers, None, x)


@pytest.mark.parametrize("drop", [timm, torchvision])
def test_the_gradient_belongs_to_the_rows_that_were_kept(drop):
    _, apply, (params, gates, buffers) = built(drop)
    x = torch.ones(8, 3, requires_grad=True)
    y = apply(params, gates, buffers, random.key(0), x)
    y.sum().backward()
    assert_close(x.grad, y.detach())
