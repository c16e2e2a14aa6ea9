"""L0Modules behind each other draw apart, or are refused."""

from __future__ import annotations

import copy
from collections import namedtuple

import pytest
import torch
from torch import Tensor, nn

import l0func as l0

X = torch.sin(torch.arange(24.0)).reshape(2, 3, 4)
SAME = r"same key and have drawn equally often.*L0Module\(part, lam, seed=i\)"


def part(seed: int = 0, **settings) -> l0.L0Module:
    return l0.L0Module(nn.Linear(4, 4), 1e-3, seed=seed, **settings)


class Behind(nn.Module):
    """Two parts; the first one's output goes through a container."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.parts
        pair = namedtuple("Pair", "y, other")(first(x), x)
        return x + second({"y": pair.y.tanh() * 2}["y"])


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    layer.linear1 = l0.L0Module(layer.linear1, 1e-3)
    return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)


NETWORKS = {
    "equal seeds": lambda: nn.Sequential(part(), nn.ReLU(), part()),
    "a row each": lambda: nn.Sequential(part(per_example=True), part(per_example=True)),
    "copies": lambda: (lambda one: nn.Sequential(one, copy.deepcopy(one)))(part()),
    "in a container": lambda: Behind(part(), part()),
    "layers that torch copies": encoder,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_equal_keys_behind_each_other_are_refused(name):
    net = NETWORKS[name]()
    for _ in range(2):
        with pytest.raises(ValueError, match=SAME):
            net(X)


def test_the_advice_helps():
    net = encoder()
    for number, layer in enumerate(net.layers):
        layer.linear1 = l0.L0Module(layer.linear1.module, 1e-3, seed=number)
    net(X).sum().backward()
    masks = [
        l0.sample_masks(own.key_of(1), own.gates(), own.spec)["weight"]
        for own in (layer.linear1 for layer in net.layers)
    ]
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[1], masks[2])


def test_one_module_twice_and_modules_side_by_side_are_taken():
    one, other = part(), part()
    assert not torch.equal(one(X), one(X))
    (one(one(X)) + other(X)).sum().backward()
    torch.testing.assert_close(*(copy.deepcopy(one)(X) for _ in range(2)))


def test_a_pair_that_has_drawn_unequally_often_draws_apart():
    one, other = part(), part()
    one(X)
    assert other(one(X)).shape == X.shape


def test_nothing_is_kept_in_a_graph_that_has_gone():
    net = nn.Sequential(part(0), part(1))
    y = net(X)
    assert y.grad_fn.metadata
    assert copy.deepcopy(net)(X).shape == y.shape
