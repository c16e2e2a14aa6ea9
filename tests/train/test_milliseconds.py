"""Milliseconds as the measure of a target: held, bounded from below, and wrong uses."""

from __future__ import annotations

import pytest
import torch
from sampled import one_in, sampled
from torch import nn

import l0func as l0
from l0func.costs.latency_text import LayerTime, WidthAxis
from l0func.costs.machine import Machine

X = torch.linspace(-1, 1, 64 * 20).reshape(64, 20)
Y = X[:, :3].sum(1, keepdim=True).sin()


def setting():
    """A network with two groups, whose first one takes most of the time."""
    torch.manual_seed(0)
    layers = [nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1)]
    module = nn.Sequential(*layers)
    fn, params, buffers = l0.make_functional(module)
    groups = l0.unit_groups(module, X[:2])
    spec = l0.gate_spec(params, groups=groups, buffers=buffers)
    nodes = (1.0, 20.0, 40.0)
    table = l0.LatencyTable(
        axes=(WidthAxis("0.weight", 0, nodes), WidthAxis("2.weight", 0, nodes)),
        layers=(
            LayerTime("0", (0,), ((1.0,), (6.0,), (8.0,))),
            LayerTime("4", (1,), ((0.1,), (0.2,), (1.0,))),
        ),
        fixed=1.0,
        groups=dict(groups.sizes),
        shapes={path: tuple(p.shape) for path, p in params.items()},
        machine=Machine.here(torch.device("cpu"), "torch.float32", "(64, 20)"),
        error=0.0,
    )
    return fn, params, buffers, spec, table


def train(rate, target, steps=400, **settings):
    fn, params, buffers, spec, table = setting()
    control = l0.lagrangian(spec, target, measure="ms", table=table, **settings)
    apply = l0.gated(fn, spec)

    def loss(params, gates, buffers, key, x, y):
        return (apply(params, gates, buffers, key, x) - y).square().mean()

    adams = [l0.optimizer(torch.optim.Adam, lr=lr) for lr in (1e-3, rate)]
    init, step = l0.training(loss, *adams, control=control)
    state = init(l0.random.key(0), params, l0.init_gates(l0.random.key(1), spec), buffers)
    shares = []
    for _ in range(steps):
        state, _ = step(state, X, Y)
        shares.append(l0.realised_ms(state.gates, spec, table) / table.dense)
    return shares, spec, state


@pytest.mark.parametrize("rate", sampled([0.5, 0.1, 2.0], one_in(3)))
def test_fast_gates_come_from_above_and_end_within_a_step_of_one_unit(rate):
    shares, _, _ = train(rate, 0.5)
    # One unit of the first group takes up to 5 / 19 of 10 ms, or 2.6 points.
    assert min(shares) > 0.48
    assert abs(shares[-1] - 0.5) < 0.03


def test_every_group_keeps_its_floor():
    _, spec, state = train(0.5, 0.4, floor=4)
    masks = l0.prune({p.path: torch.ones(p.shape) for p in spec.parameters}, state.gates, spec)
    for layer in ("2", "4"):
        assert int(masks[f"{layer}.weight"].any(0).sum()) >= 4


def test_the_price_falls_on_the_units_that_take_the_time():
    _, _, _, spec, table = setting()
    gates = {"0": torch.ones(40), "2": torch.ones(40)}
    control = l0.lagrangian(spec, 0.3, measure="ms", table=table)
    slopes = torch.func.grad(lambda g: control.penalty(control.init(gates), g))(gates)
    probability = torch.func.grad_and_value(l0.HardConcrete().prob_nonzero)
    slope, p = probability(torch.ones(()))
    assert 20 < 40 * p < 40
    price = 0.03 * (1 - 0.3) / 0.3 / 0.3 / table.dense
    expected = {"0": 2.0 / 20, "2": 0.8 / 20}
    for name, ms_per_unit in expected.items():
        torch.testing.assert_close(slopes[name], torch.full((40,), price * ms_per_unit) * slope)


def test_members_of_a_sweep_are_those_of_single_runs():
    _, _, _, spec, table = setting()
    control = l0.lagrangian(spec, 0.5, measure="ms", table=table)
    stack = {
        "0": torch.stack([torch.linspace(-9.0, -8.0, 40), torch.linspace(-5.0, 5.0, 40)]),
        "2": torch.ones(2, 40),
    }
    mapped = torch.vmap(control.hold)(torch.vmap(control.init)(stack), stack)
    for number in range(2):
        gates = {name: t[number] for name, t in stack.items()}
        single = control.hold(control.init(gates), gates)
        for name, t in single.items():
            # Both find the smallest shift of at most 80 to within 20 halvings.
            torch.testing.assert_close(mapped[name][number], t, atol=80 / 2**20, rtol=0)


def test_only_gates_of_groups_in_the_table_are_raised():
    _, params, _, _, table = setting()
    rules = {"4.bias": l0.element()}
    module = nn.Sequential(
        nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1)
    )
    spec = l0.gate_spec(params, rules, groups=l0.unit_groups(module, X[:2]))
    gates = {g.name: torch.full(g.shape, -9.0) for g in spec.gates}
    control = l0.lagrangian(spec, 0.5, measure="ms", table=table)
    held = control.hold(control.init(gates), gates)
    assert torch.equal(held["4.bias"], gates["4.bias"])
    assert bool((held["0"] > gates["0"]).all())


def test_a_pattern_is_the_budget_of_its_layers():
    _, _, _, spec, table = setting()
    control = l0.lagrangian(spec, {"0.*": 0.4}, measure="ms", table=table)
    gates = {"0": torch.where(torch.arange(40) < 20, 5.0, -9.0), "2": torch.full((40,), 5.0)}
    assert float(control.init(gates).violation) == pytest.approx(6 / 8 - 0.4)
    with pytest.raises(ValueError, match="take no milliseconds"):
        l0.lagrangian(spec, {"2.*": 0.4}, measure="ms", table=table)


@pytest.mark.parametrize("target", [0.0, -0.5, 1.0, 5.0, float("nan")])
def test_a_target_is_a_share_of_the_dense_milliseconds(target):
    _, _, _, spec, table = setting()
    with pytest.raises(ValueError, match=r"a share of the dense network in \(0, 1\).* 10 ms"):
        l0.lagrangian(spec, target, measure="ms", table=table)


def test_a_target_below_what_removal_reaches_names_both_times():
    _, _, _, spec, table = setting()
    with pytest.raises(ValueError, match=r"or 2 ms; .* still take 0\.21 .* 10 ms"):
        l0.lagrangian(spec, 0.2, measure="ms", table=table)
    l0.lagrangian(spec, 0.22, measure="ms", table=table)


def test_a_table_goes_with_milliseconds_and_counts_with_multiply_adds():
    fn, params, buffers, spec, table = setting()
    counts = l0.count_macs(fn, params, buffers, X)
    with pytest.raises(ValueError, match=r"A table, from l0func\.latency_table, goes with"):
        l0.lagrangian(spec, 0.5, measure="ms")
    for measure in ("density", "l0"):
        with pytest.raises(ValueError, match=r"A table, from l0func\.latency_table, goes with"):
            l0.lagrangian(spec, 0.5, measure=measure, table=table)
    with pytest.raises(ValueError, match="A table"):
        l0.lagrangian(spec, 0.5, measure="macs", counts=counts, table=table)
    with pytest.raises(ValueError, match="counts, from"):
        l0.lagrangian(spec, 0.5, measure="ms", counts=counts, table=table)
