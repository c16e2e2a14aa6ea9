"""compact compares networks up to rounding, however coarse their own arithmetic is."""

import pytest
import torch
from torch import nn

import l0func as l0


class Coarse(nn.Linear):
    """A layer whose result is rounded coarsely in float32, by its width, but not in float64."""

    def forward(self, x):
        scale = 1 + x.shape[-1] / 640
        return (super().forward(x) * scale + 2.0**17 - 2.0**17) / scale


class Rounded(nn.Linear):
    """A layer that multiplies in bfloat16, as a card does in a narrow type of its own."""

    def forward(self, x):
        product = nn.functional.linear(x.bfloat16(), self.weight.bfloat16())
        return product.float() + self.bias


def _network(layer, activation=nn.Tanh):
    torch.manual_seed(0)
    parts = [layer(48, 640), activation(), layer(640, 48), activation(), layer(48, 4)]
    return nn.Sequential(*parts).eval(), torch.randn(16, 48)


@pytest.mark.parametrize("layer", [Coarse, Rounded])
def test_networks_that_differ_by_coarse_rounding_are_the_same(layer):
    module, x = _network(layer)
    fn, params, buffers = l0.make_functional(module)
    spec = l0.gate_spec(params, groups=l0.unit_groups(module, x[:2]))
    gates = {}
    for number, gate in enumerate(spec.gates):
        key = l0.random.fold_in(l0.random.key(0), number)
        gates[gate.name] = 6 * l0.random.uniform(key, gate.shape) - 3
    small = l0.compact(fn, params, gates, buffers, spec, example_inputs=x)
    assert small.params["0.weight"].shape[0] < 640
    pruned = l0.prune(params, gates, spec)
    wide = [{k: t.double() for k, t in tree.items()} for tree in (pruned, small.params)]
    if layer is Coarse:
        largest = (fn(pruned, buffers, x) - small.fn(*small[1:], x)).abs().max()
        assert largest > 1e-3 * fn(pruned, buffers, x).abs().max()
        exact = fn(wide[0], buffers, x.double()), small.fn(wide[1], small.buffers, x.double())
        torch.testing.assert_close(*exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("layer", [nn.Linear, Coarse, Rounded])
def test_a_network_that_lost_more_is_told_apart(layer):
    module, x = _network(layer, nn.Sigmoid)
    fn, params, buffers = l0.make_functional(module)
    # A closed gate leaves sigmoid(0), which the next layer reads.
    rows = {"0.weight": l0.axis(0), "0.bias": l0.axis(0)}
    group = l0.group(rows, owns={"2.weight": l0.axis(1)})
    spec = l0.gate_spec(params, groups={"hidden": group})
    gates = {"hidden": torch.linspace(-4, 4, 640)}
    with pytest.raises(ValueError, match="output on the examples"):
        l0.compact(fn, params, gates, buffers, spec, example_inputs=x)
