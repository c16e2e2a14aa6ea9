"""compact with examples folds constants and removes idle units, whatever made them idle."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from groups import random_gates
from torch import Tensor, nn

import l0func as l0
from l0func import axis


def folded(
    module: nn.Module, rules: dict, closed: dict[str, list[int]], x: Tensor
) -> tuple[Any, Any, float]:
    """Compact a network; return its shapes, itself, and its error on inputs it has not seen.

    The error is relative to the largest output of the pruned network.
    """
    fn, params, buffers = l0.make_functional(module.double().eval())
    spec = l0.gate_spec(params, rules)
    gates = {gate.name: torch.full(gate.shape, 3.0, dtype=torch.float64) for gate in spec.gates}
    for name, numbers in closed.items():
        gates[name][numbers] = -20.0
    small = l0.compact(fn, params, gates, buffers, spec, example_inputs=x)
    other = 3 * torch.randn(7, *x.shape[1:], dtype=torch.float64)
    expected = fn(l0.prune(params, gates, spec), buffers, other)
    difference = small.fn(small.params, small.buffers, other) - expected
    error = float(difference.abs().max() / expected.abs().max())
    return small.fn.shapes, small, error


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Softplus, nn.ReLU])
def test_the_constant_of_a_closed_row_is_folded_into_the_next_bias(activation):
    module = nn.Sequential(nn.Linear(3, 6), activation(), nn.Linear(6, 2))
    shapes, _, error = folded(
        module, {"0.weight": axis(0)}, {"0.weight": [1, 4]}, torch.randn(4, 3).double()
    )
    assert shapes == {"0.weight": (4, 3), "0.bias": (4,), "2.weight": (2, 4), "2.bias": (2,)}
    assert error < 1e-12


def test_a_constant_goes_through_batch_norm_pooling_and_flattening():
    module = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.Sigmoid(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(45, 3),
    )
    module[1].running_mean.normal_()
    module[1].bias.data.normal_()
    shapes, _, error = folded(
        module, {"0.weight": axis(0)}, {"0.weight": [0, 3]}, torch.randn(4, 2, 6, 6).double()
    )
    assert (shapes["0.weight"], shapes["5.weight"]) == ((3, 2, 3, 3), (3, 27))
    assert error < 1e-12


@pytest.mark.parametrize(("padding", "left"), [(0, 3), (1, 5)])
def test_before_a_padded_convolution_a_constant_is_kept(padding, left):
    module = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Sigmoid(), nn.Conv2d(5, 2, 3, padding=padding))
    shapes, _, error = folded(
        module, {"0.weight": axis(0)}, {"0.weight": [0, 3]}, torch.randn(4, 2, 8, 8).double()
    )
    assert shapes["0.weight"][0] == left
    assert error < 1e-12


def test_a_constant_zero_goes_even_there_and_without_a_bias_to_take_it():
    module = nn.Sequential(
        nn.Conv2d(2, 5, 3, bias=False), nn.ReLU(), nn.Conv2d(5, 2, 3, padding=1, bias=False)
    )
    shapes, _, error = folded(
        module, {"0.weight": axis(0)}, {"0.weight": [0, 3]}, torch.randn(4, 2, 8, 8).double()
    )
    assert shapes["0.weight"][0] == 3
    assert error < 1e-12
    kept = nn.Sequential(nn.Linear(3, 6), nn.Sigmoid(), nn.Linear(6, 2, bias=False))
    x = torch.randn(4, 3).double()
    shapes, _, _ = folded(kept, {"0.weight": axis(0)}, {"0.weight": [1]}, x)
    assert shapes["0.weight"] == (6, 3)


def test_constants_of_constants_are_folded_too():
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    fn, params, buffers = l0.make_functional(module.double())
    # The second layer's unit 2 reads the first layer's unit 1 only, whose row is closed.
    params["2.weight"][2] = torch.tensor([0.0, 1.5, 0.0, 0.0])
    spec = l0.gate_spec(params, {"0.weight": axis(0)})
    gates = {"0.weight": torch.tensor([3.0, -20.0, 3.0, 3.0], dtype=torch.float64)}
    x = torch.randn(5, 3, dtype=torch.float64)
    small = l0.compact(fn, params, gates, buffers, spec, example_inputs=x)
    assert (small.fn.shapes["0.weight"], small.fn.shapes["2.weight"]) == ((3, 3), (3, 3))
    output = small.fn(small.params, {}, x)
    expected = fn(l0.prune(params, gates, spec), {}, x)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)


def test_units_that_single_weights_left_idle_go():
    fn, params, buffers = l0.make_functional(
        nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4)).double()
    )
    spec = l0.gate_spec(params, {"*.weight": l0.element()})
    gates = random_gates(spec, 0.06, seed=3)
    x = torch.randn(6, 20, dtype=torch.float64)
    small = l0.compact(fn, params, gates, buffers, spec, example_inputs=x)
    pruned = l0.prune(params, gates, spec)
    working = (pruned["0.weight"] != 0).any(1) & (pruned["2.weight"] != 0).any(0)
    assert 0 < int(working.sum()) < 30
    assert small.fn.shapes["0.weight"] == (int(working.sum()), 20)
    output, expected = small.fn(small.params, {}, x), fn(pruned, {}, x)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)


class Between(nn.Module):
    """An operation between a layer and its reader that depends on sizes, places or masks."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b, self.o = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)
        self.places = nn.Parameter(torch.arange(12.0)[:, None] / 5)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        if self.kind == "sum":
            h = h.sum(1)
        if self.kind == "length":
            h = h / x.shape[1]
        if self.kind == "mask":
            h = h * mask[..., None]
        if self.kind == "fill":
            h = h.masked_fill(~mask[..., None], 0.5)
        if self.kind == "place":
            h = h * self.places[: x.shape[1]]
        if self.kind == "running":
            h = h.cumsum(1)
        if self.kind == "mean":
            h = h.mean(1)
        return self.o(self.b(h).tanh())


@pytest.mark.parametrize(
    "kind", ["sum", "length", "mask", "fill", "place", "running", "mean", "nothing"]
)
def test_a_constant_of_the_example_only_is_not_folded(kind):
    module = Between(kind).double()
    module.a.bias.data.fill_(0.5)
    fn, params, buffers = l0.make_functional(module)
    spec = l0.gate_spec(params, {"a.weight": axis(0)})
    gates = {"a.weight": torch.tensor([-20.0, 3, -20, 3, 3, 3], dtype=torch.float64)}
    short = 1 if kind in ("place", "running") else 5
    example = (torch.randn(3, short, 4).double(), torch.ones(3, short, dtype=torch.bool))
    small = l0.compact(fn, params, gates, buffers, spec, example_inputs=example)
    assert small.fn.shapes["a.weight"][0] == (4 if kind in ("mean", "nothing") else 6)
    other = (torch.randn(2, 9, 4).double(), torch.randn(2, 9) > 0)
    expected = fn(l0.prune(params, gates, spec), buffers, *other)
    output = small.fn(small.params, {}, *other)
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-12)


def test_examples_that_are_not_numbers_are_compared_as_such():
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    fn, params, buffers = l0.make_functional(module)
    x = torch.full((2, 3), float("nan"))
    spec = l0.gate_spec(params, groups=l0.unit_groups(module, x))
    gates = {"0": torch.tensor([3.0, -20.0, 3.0, 3.0])}
    small = l0.compact(fn, params, gates, buffers, spec, example_inputs=x)
    assert small.fn.shapes["0.weight"] == (3, 3)
