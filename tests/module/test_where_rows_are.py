"""``in_dims`` and ``out_dims`` of an ``L0Module``: inputs that are shared, or lie across."""

from __future__ import annotations

import copy

import pytest
import torch
from device import WHOLE_MODULES
from torch import nn

import l0func as l0


class Mixed(nn.Module):
    """Time steps that a mask lets see each other."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x, mask):
        return mask @ self.linear(x)


MASK = torch.ones(5, 5).tril()


def mixed(**settings):
    torch.manual_seed(0)
    return l0.L0Module(Mixed(), lam=0.0, seed=0, per_example=True, in_dims=(0, None), **settings)


@pytest.mark.parametrize("rows", [5, 3, 1, 0])
def test_an_input_that_all_examples_share_is_whole_in_every_row(rows):
    net = mixed()
    x = torch.randn(rows, 5, 4)
    output = net(x, MASK)
    assert output.shape == net.eval()(x, MASK).shape
    fn, params, buffers = l0.make_functional(net.module)
    apply = l0.gated(fn, net.spec)
    for i, key in enumerate(l0.random.split(net.key_of(1), rows)):
        alone = apply(params, net.gates(), buffers, key, x[i : i + 1], MASK)
        torch.testing.assert_close(output[i : i + 1], alone)


def test_rows_that_lie_across_have_the_masks_of_single_calls():
    torch.manual_seed(0)
    settings = {"per_example": True, "in_dims": 1, "out_dims": 1}
    net = l0.L0Module(nn.LSTM(4, 6), lam=0.0, seed=0, **settings)
    x = torch.randn(7, 3, 4)
    output, (h, c) = net(x)
    assert output.shape == (7, 3, 6)
    fn, params, buffers = l0.make_functional(net.module)
    apply = l0.gated(fn, net.spec)
    for i, key in enumerate(l0.random.split(net.key_of(1), 3)):
        alone, (own_h, own_c) = apply(params, net.gates(), buffers, key, x[:, i : i + 1])
        torch.testing.assert_close(output[:, i : i + 1], alone)
        torch.testing.assert_close((h[:, i : i + 1], c[:, i : i + 1]), (own_h, own_c))


def test_global_numbers_count_the_rows_that_lie_across():
    net = l0.L0Module(nn.LSTM(4, 6), lam=0.0, seed=0, per_example=True, in_dims=1, out_dims=1)
    x = torch.randn(7, 3, 4)
    part, _ = net(x[:, 1:], rows=torch.tensor([1, 2]))
    net.draws = 0
    whole, _ = net(x, rows=torch.arange(3))
    torch.testing.assert_close(part, whole[:, 1:])
    with pytest.raises(ValueError, match=r"shape \(3,\); got \(7,\)"):
        net(x, rows=torch.arange(7))


def test_a_copy_has_its_rows_where_the_original_has_them():
    net = mixed()
    other = copy.deepcopy(net)
    x = torch.randn(3, 5, 4)
    assert torch.equal(net(x, MASK), other(x, MASK))


@WHOLE_MODULES
@pytest.mark.compiles
def test_a_compiled_module_has_its_rows_there_too():
    net, x = mixed(), torch.randn(3, 5, 4)
    expected = copy.deepcopy(net)(x, MASK)
    actual = torch.compile(net, backend="eager", fullgraph=True)(x, MASK)
    torch.testing.assert_close(actual, expected)


def test_dimensions_of_rows_without_rows_are_refused():
    for name in ("in_dims", "out_dims"):
        with pytest.raises(ValueError, match=f"Set per_example=True, or leave {name} out"):
            l0.L0Module(nn.Linear(2, 2), lam=0.0, **{name: 1})
        with pytest.raises(TypeError, match=f"{name} says where the rows are"):
            l0.L0Module(nn.Linear(2, 2), lam=0.0, per_example=True, **{name: "0"})


def test_another_number_of_dimensions_than_inputs_is_refused():
    with pytest.raises(ValueError, match="in_dims has 2 entries for 1 inputs"):
        mixed()(torch.randn(3, 5, 4))
