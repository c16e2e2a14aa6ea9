"""Weights that forward joins dimensions of, as einsum does: units along one of them can go."""

from __future__ import annotations

import pytest
import torch
from cut_modules import wrong_removals
from torch import Tensor, nn
from torch.nn import functional as F

import l0func as l0
from l0func import axis


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) / shape[0] ** 0.5)


class EinsumAttention(nn.Module):
    """Weights with a dimension for heads, at the place that the letters say."""

    def __init__(self, of_inputs: str, of_outputs: str) -> None:
        super().__init__()
        self.of_inputs, self.of_outputs = of_inputs, of_outputs
        sizes = {"d": 8, "h": 4, "k": 3}
        shape = [sizes[letter] for letter in of_inputs]
        self.q, self.k, self.v = weight(*shape), weight(*shape), weight(*shape)
        self.bias = weight(4, 3)
        self.o = weight(*[sizes[letter] for letter in of_outputs])
        self.enter, self.norm, self.out = nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        y = self.norm(h)
        rule = f"bnd,{self.of_inputs}->bnhk"
        q, k, v = (torch.einsum(rule, y, w) + self.bias for w in (self.q, self.k, self.v))
        scores = torch.einsum("bqhk,bnhk->bhqn", q, k).softmax(-1)
        z = torch.einsum("bhqn,bnhk->bqhk", scores, v)
        return self.out(h + torch.einsum(f"bqhk,{self.of_outputs}->bqd", z, self.o))


@pytest.mark.parametrize("of_outputs", ["hkd", "dhk"])
@pytest.mark.parametrize("of_inputs", ["hdk", "dhk", "hkd"])
def test_heads_of_einsum_weights_are_slices_along_their_dimension(of_inputs, of_outputs):
    torch.manual_seed(0)
    module, x = EinsumAttention(of_inputs, of_outputs).eval(), torch.randn(2, 3, 5)
    groups = l0.unit_groups(module, x)
    assert list(groups.sizes.values()) == [4]
    (found,) = groups.values()
    owned = dict(found.owns)
    assert owned["q"] == owned["v"] == (axis(of_inputs.index("h")),)
    assert dict(found.multiplies) == {"o": (axis(of_outputs.index("h")),)}
    assert wrong_removals(module, (x,), groups, draws=12) == []


class Flattened(nn.Module):
    """A weight with two output dimensions; the next layer reads each pair apart, or in pairs."""

    def __init__(self, over: str) -> None:
        super().__init__()
        self.over, self.w = over, weight(4, 6, 2)
        self.out = nn.Linear(12 if over == "neither" else 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        w = self.w.flatten(1)
        if "gathered" in self.over:
            # Pairs stay pairs, at other places in every row.
            order = torch.arange(w.shape[1])
            w = w.gather(1, torch.stack([order.roll(2 * i) for i in range(len(w))]))
        if "table" in self.over:
            y = F.embedding(torch.arange(len(x)), w) * x[:, :1]
        else:
            y = x @ w
        y = torch.relu(y).unflatten(-1, (-1, 2))
        if self.over == "neither":
            return self.out(y.flatten(-2))
        return self.out(y[..., 0] * y[..., 1])


@pytest.mark.parametrize("over", ["last", "last, of a table"])
def test_pairs_that_are_multiplied_go_along_the_first_dimension(over):
    module, x = Flattened(over).eval(), torch.randn(3, 4)
    groups = l0.unit_groups(module, x)
    assert groups.sizes == {"w": 6}
    assert wrong_removals(module, (x,), groups, draws=12) == []


@pytest.mark.parametrize(
    "over", ["neither", "last, gathered row by row", "last, of a table gathered row by row"]
)
def test_units_along_no_dimension_of_their_own_stay_and_the_weight_is_named(over):
    with pytest.raises(ValueError, match="'w' is reshaped before it is used"):
        l0.unit_groups(Flattened(over), torch.randn(3, 4))
