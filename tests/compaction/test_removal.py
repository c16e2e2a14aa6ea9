"""Removal of slices: the types of buffers, attributes with several items, constants read twice."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import l0func as l0


class Masked(nn.Module):
    """A network that blanks some of its outputs by a bool buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 6), nn.Linear(6, 2)
        self.register_buffer("shown", torch.tensor([True, False]))

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x).relu()).masked_fill(~self.shown, 0.0)


def test_a_bool_buffer_stays_one():
    torch.manual_seed(0)
    net, x = Masked(), torch.randn(3, 4)
    fn, params, buffers = l0.make_functional(net)
    groups = l0.unit_groups(net, x)
    assert groups.sizes == {"inner": 6}
    spec = l0.gate_spec(params, groups=groups, buffers=buffers)
    gates = {"inner": torch.tensor([4.0, -4.0, 4.0, -4.0, 4.0, 4.0])}
    small = l0.compact(fn, params, gates, buffers, spec)
    assert torch.equal(small.buffers["shown"], torch.tensor([True, False]))
    pruned = l0.prune(params, gates, spec)
    torch.testing.assert_close(small.fn(*small[1:], x), fn(pruned, buffers, x))


class Sizes(nn.Module):
    """Two hidden layers; forward reads their widths from one attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)
        self.sizes = (4, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu().reshape(len(x), self.sizes[0])
        return self.last(self.second(h).relu().reshape(len(x), self.sizes[1]))


def test_two_groups_lower_two_items_of_one_attribute():
    fn, params, buffers = l0.make_functional(Sizes())
    first = l0.group(
        {"second.weight": l0.axis(1)},
        owns={"first.weight": l0.axis(0), "first.bias": l0.axis(0)},
        attrs={"sizes.0": 1},
    )
    second = l0.group(
        {"last.weight": l0.axis(1)},
        owns={"second.weight": l0.axis(0), "second.bias": l0.axis(0)},
        attrs={"sizes.1": 1},
    )
    spec = l0.gate_spec(params, groups={"first": first, "second": second})
    gates = {
        "first": torch.tensor([4.0, -4.0, 4.0, 4.0]),
        "second": torch.tensor([-4.0, 4.0, -4.0, 4.0, 4.0]),
    }
    small = l0.compact(fn, params, gates, buffers, spec)
    assert l0.to_module(*small).sizes == (3, 3)
    x = torch.randn(2, 3)
    pruned = l0.prune(params, gates, spec)
    torch.testing.assert_close(small.fn(*small[1:], x), fn(pruned, buffers, x))


class ReadTwice(nn.Module):
    """One weight reads the units of ``a`` at two separate places."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.g, self.out = nn.Linear(3, 4), nn.Linear(3, 2), nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).sigmoid()
        return self.out(torch.cat([h, self.g(x).sigmoid(), h], -1))


def test_a_constant_unit_that_one_weight_reads_twice_is_folded():
    torch.manual_seed(0)
    fn, params, buffers = l0.make_functional(ReadTwice())
    spec = l0.gate_spec(params, {"a.weight": l0.axis(0)})
    gates = {"a.weight": torch.tensor([4.0, -4.0, 4.0, 4.0])}
    x = torch.randn(5, 3)
    small = l0.compact(fn, params, gates, buffers, spec, example_inputs=x)
    assert small.params["a.weight"].shape == (3, 3)
    pruned = l0.prune(params, gates, spec)
    torch.testing.assert_close(small.fn(*small[1:], x), fn(pruned, buffers, x))
