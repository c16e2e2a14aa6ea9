"""Tables measured by a clock that the layers move: their cost is known, and is the oracle."""

from __future__ import annotations

import pytest
import torch
from groups import random_gates
from simulated import (
    Costly,
    Drifting,
    SimulatedClock,
    Stepped,
    bilinear,
    chain,
    milliseconds,
    table_of,
)
from torch import nn
from torch.testing import assert_close
from zoo import BY_NAME

import l0func as l0
from l0func.timing.latency_table import measured_table

X = torch.ones(2, 7)


def spec_of(module, x=X):
    fn, params, buffers = l0.make_functional(module.eval())
    spec = l0.gate_spec(params, groups=l0.unit_groups(module, x), buffers=buffers)
    return fn, params, buffers, spec


def compacted(module, gates, x=X):
    fn, params, buffers, spec = spec_of(module, x)
    return l0.to_module(*l0.compact(fn, params, gates, buffers, spec))


@pytest.fixture(scope="module")
def plain():
    module = chain(Costly, 7, 24, 33, 16, 5)
    return module, table_of(module, X), spec_of(module)[-1]


@pytest.mark.parametrize("density", [0.05, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_bilinear_cost_is_predicted_exactly_at_any_width(plain, density, seed):
    module, table, spec = plain
    gates = random_gates(spec, density, seed)
    real = milliseconds(compacted(module, gates), X)
    assert l0.realised_ms(gates, spec, table) == pytest.approx(real, rel=1e-6)


def test_dense_and_error_are_those_of_the_cost(plain):
    module, table, _ = plain
    assert table.dense == pytest.approx(milliseconds(module, X), rel=1e-6)
    assert table.error < 1e-6


def test_each_layer_has_the_times_of_its_own_cost(plain):
    _, table, _ = plain
    for layer, (into, out) in {"2": (24, 33), "4": (33, 16)}.items():
        (own,) = [entry for entry in table.layers if entry.path == layer]
        assert len(own.axes) == 2
        assert own.ms[-1][-1] == pytest.approx(bilinear(into, out), rel=1e-6)
        assert own.ms[0][0] == pytest.approx(bilinear(1, 1), rel=1e-4)


def test_stairs_are_predicted_within_the_height_of_a_step():
    module = chain(Stepped, 7, 64, 64, 64, 5)
    table, spec = table_of(module, X), spec_of(module)[-1]
    errors = []
    for seed in range(12):
        gates = random_gates(spec, 0.3 + 0.05 * seed, seed)
        real = milliseconds(compacted(module, gates), X)
        errors.append(abs(l0.realised_ms(gates, spec, table) / real - 1))
    assert sorted(errors)[6] < 0.1
    assert max(errors) < 0.3


def test_a_machine_that_becomes_slower_changes_no_proportion():
    module = chain(Drifting, 7, 24, 33, 16, 5)
    table, spec = table_of(module, X), spec_of(module)[-1]
    for seed in range(4):
        gates = random_gates(spec, 0.4, seed)
        small = milliseconds(compacted(module, gates), X)
        share = small / milliseconds(module, X)
        assert l0.realised_ms(gates, spec, table) / table.dense == pytest.approx(share, rel=0.03)


def test_multiples_are_the_only_widths_that_are_measured():
    seen = set()

    class Watched(Costly):
        def forward(self, x):
            seen.add(tuple(self.weight.shape))
            return super().forward(x)

    module = chain(Watched, 7, 24, 33, 5)
    groups = l0.unit_groups(module, X)
    seen.clear()
    measured_table(module, groups, X, 8, 0.01, SimulatedClock())
    widths = {shape[0] for shape in seen} | {shape[1] for shape in seen}
    assert widths <= {7, 5, 8, 16, 24, 32, 33}


@pytest.mark.parametrize(
    ("multiple", "lowest"), [(3, (3, 3)), (5, (5, 5)), (6, (6, 1)), (20, (20, 1)), (64, (1, 1))]
)
def test_a_group_of_no_more_units_than_the_multiple_is_measured_at_any_number(multiple, lowest):
    module = chain(Costly, 7, 24, 6, 5)
    table, spec = table_of(module, X, multiple), spec_of(module)[-1]
    nodes = {(axis.path, axis.dim): axis.nodes for axis in table.axes}
    assert (nodes["0.weight", 0][0], nodes["2.weight", 0][0]) == lowest
    gates = {g.name: torch.full(g.shape, 2.0, requires_grad=True) for g in spec.gates}
    cost = l0.expected_ms(gates, spec, table)
    assert all((grad > 0).all() for grad in torch.autograd.grad(cost, list(gates.values())))
    counts = {"0": max(lowest[0], 6), "2": lowest[1]}
    few = {name: (torch.arange(len(t)) < counts[name]) * 80.0 - 40.0 for name, t in gates.items()}
    real = milliseconds(compacted(module, few), X)
    assert l0.realised_ms(few, spec, table) == pytest.approx(real, rel=1e-6)


def test_gradients_are_those_of_finite_differences(plain):
    _, table, spec = plain
    gates = {g.name: torch.linspace(-1.1, 2.0, g.size).double() for g in spec.gates}
    gates = {name: t.requires_grad_() for name, t in gates.items()}
    assert torch.autograd.gradcheck(
        lambda *leaves: l0.expected_ms(dict(zip(gates, leaves, strict=True)), spec, table),
        tuple(gates.values()),
    )


def test_expected_milliseconds_are_a_penalty_that_is_mapped(plain):
    _, table, spec = plain
    stack = {g.name: torch.stack([torch.zeros(g.size), torch.ones(g.size)]) for g in spec.gates}
    mapped = torch.vmap(lambda gates: l0.expected_ms(gates, spec, table))(stack)
    for number in range(2):
        single = l0.expected_ms({name: t[number] for name, t in stack.items()}, spec, table)
        assert_close(mapped[number], single)


@pytest.mark.parametrize("name", ["cnn", "lstm", "attention", "encoder_eval"])
def test_networks_of_every_kind_are_measured_and_rise_with_their_units(name):
    case = BY_NAME[name]
    module = case.build().eval()
    groups = l0.unit_groups(module, case.batch())
    table = l0.latency_table(module, groups, case.batch(), seconds=0.01)
    _, params, buffers = l0.make_functional(module)
    spec = l0.gate_spec(params, groups=groups, buffers=buffers)
    few, many = (l0.realised_ms(random_gates(spec, d), spec, table) for d in (0.01, 1.0))
    assert 0 < few <= many == pytest.approx(table.dense)


def test_the_module_is_as_before_and_in_its_own_mode(plain):
    module = chain(Costly, 7, 24, 5).train()
    before = {path: p.clone() for path, p in module.named_parameters()}
    table_of(module, X)
    assert module.training
    for path, p in module.named_parameters():
        assert torch.equal(p, before[path])
        assert p.requires_grad


def test_layers_that_are_random_in_training_are_timed_in_eval_mode():
    module = nn.Sequential(Costly(7, 24), nn.Dropout(0.5), nn.BatchNorm1d(24), Costly(24, 5))
    table = table_of(module.train(), X)
    assert table.dense == pytest.approx(bilinear(7, 24) + bilinear(24, 5), rel=1e-6)


def test_a_concatenation_is_one_width_of_several_groups():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = Costly(7, 12), Costly(7, 20), Costly(39, 24)
            self.out = Costly(24, 5)

        def forward(self, x):
            joined = torch.cat([self.a(x).relu(), self.b(x).relu(), x], 1)
            return self.out(self.c(joined).relu())

    module = Joined()
    table, spec = table_of(module, X), spec_of(module)[-1]
    for seed in range(4):
        gates = random_gates(spec, 0.4, seed)
        real = milliseconds(compacted(module, gates), X)
        assert l0.realised_ms(gates, spec, table) == pytest.approx(real, rel=1e-6)


def test_functions_on_bare_parameters_are_layers_too():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.w1 = nn.Parameter(torch.randn(24, 7))
            self.w2 = nn.Parameter(torch.randn(16, 24))
            self.w3 = nn.Parameter(torch.randn(5, 16))

        def forward(self, x):
            for w in (self.w1, self.w2, self.w3):
                Costly.forward(_Layer(w), x)
                x = (x @ w.T).relu()
            return x

    class _Layer:
        cost = staticmethod(bilinear)
        bias = None

        def __init__(self, weight):
            self.weight = weight

    module = Bare()
    table, spec = table_of(module, X), spec_of(module)[-1]
    assert {layer.path for layer in table.layers} == {"w1", "w2", "w3"}
    gates = random_gates(spec, 0.4)
    real = milliseconds(compacted(module, gates), X)
    assert l0.realised_ms(gates, spec, table) == pytest.approx(real, rel=1e-6)


def test_no_groups_and_numbers_out_of_range_are_refused():
    module = chain(Costly, 7, 24, 5)
    groups = l0.unit_groups(module, X)
    with pytest.raises(ValueError, match="needs groups"):
        l0.latency_table(module, {}, X)
    for settings, kind in (({"multiple": 0}, ValueError), ({"multiple": 1.5}, TypeError)):
        with pytest.raises(kind, match="multiple"):
            l0.latency_table(module, groups, X, **settings)
    for seconds, kind in ((0, ValueError), (float("nan"), ValueError), ("1", TypeError)):
        with pytest.raises(kind, match="seconds is a"):
            l0.latency_table(module, groups, X, seconds=seconds)


def test_inputs_on_another_device_or_of_another_width_are_refused():
    module = chain(Costly, 7, 24, 5)
    groups = l0.unit_groups(module, X)
    with pytest.raises(ValueError, match="Move the examples"):
        l0.latency_table(module, groups, X.to("meta"))
    with pytest.raises(ValueError, match="Convert the examples"):
        l0.latency_table(module, groups, X.double())
    with pytest.raises(ValueError, match="measured on the CPU and on CUDA"):
        l0.latency_table(module.to("meta"), groups, X.to("meta"))
    with pytest.raises(TypeError, match=r"eager torch\.nn\.Module"):
        l0.latency_table(lambda x: x, groups, X)
