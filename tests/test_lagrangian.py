"""A target in place of λ: measures by hand, the answer of the multiplier, and what cannot be reached."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import l0func as l0


@pytest.fixture
def mlp():
    fn, params, buffers = l0.make_functional(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))
    spec = l0.gate_spec(params, {"*.weight": l0.element()})
    gates = {g.name: 3 * l0.random.normal(l0.random.fold_in(l0.random.key(0), i), g.shape) for i, g in enumerate(spec.gates)}
    return fn, params, buffers, spec, gates


def realised(params, gates, spec, estimator="louizos"):
    rows = l0.summary(params, gates, spec, estimator).rows
    return sum(row.realised_open for row in rows) / sum(row.entries for row in rows)


@pytest.mark.parametrize("estimator", ["louizos", "median", "count"])
def test_the_violation_is_what_summary_announces_less_the_target(mlp, estimator):
    _, params, _, spec, gates = mlp
    state = l0.lagrangian(spec, 0.4, estimator=estimator).init(gates)
    assert_close(state.violation, torch.tensor([realised(params, gates, spec, estimator) - 0.4]))


def test_entries_and_multiply_adds_are_measured_as_they_are_elsewhere(mlp):
    fn, params, buffers, spec, gates = mlp
    counts = l0.count_macs(fn, params, buffers, torch.ones(1, 6))
    by_macs = l0.lagrangian(spec, 0.4, measure="macs", counts=counts).init(gates)
    assert_close(by_macs.violation, torch.tensor([l0.realised_macs(gates, spec, counts) / counts.total - 0.4]))
    by_l0 = l0.lagrangian(spec, {"*.weight": 20}, measure="l0").init(gates)
    by_density = l0.lagrangian(spec, {"*.weight": 20 / 45}).init(gates)
    assert_close(by_l0, by_density)


def test_the_penalty_is_the_price_times_the_expected_excess_and_its_gradient(mlp):
    _, _, _, spec, gates = mlp
    control = l0.lagrangian(spec, {"0.weight": 0.3, "*": 0.5}, damping=2.0)
    state = control.init(gates)._replace(multiplier=torch.tensor([0.7, 0.1]), violation=torch.tensor([0.2, -0.03]))

    def by_hand(gates):
        opens = {name: g.distribution.prob_nonzero(gates[name]) for name, g in zip(gates, spec.gates, strict=True)}
        first = opens["0.weight"].mean() - 0.3
        whole = (opens["0.weight"].sum() + opens["2.weight"].sum() + 8) / 53 - 0.5
        return (0.7 + 2 * 0.2) * first + (0.1 - 2 * 0.03) * whole

    assert_close(control.penalty(state, gates), by_hand(gates))
    ours, theirs = (torch.func.grad(f)(gates) for f in (lambda g: control.penalty(state, g), by_hand))
    assert_close(ours, theirs)


def test_the_multiplier_rises_while_the_target_is_missed_and_restarts_when_it_is_met(mlp):
    _, _, _, spec, gates = mlp
    closed = {name: torch.full_like(g, -9.0) for name, g in gates.items()}
    control = l0.lagrangian(spec, 0.3, lr=0.1)
    missed = control.update(control.init(gates), gates)
    assert_close(missed.multiplier, 0.1 * missed.violation)
    assert control.update(missed, closed).multiplier == 0.0
    both = l0.lagrangian(spec, 0.3, lr=0.1, equality=True)
    assert both.update(both.update(both.init(gates), closed), closed).multiplier < 0.0


def test_the_target_falls_linearly_while_it_warms_up(mlp):
    _, _, _, spec, gates = mlp
    control = l0.lagrangian(spec, 0.2, warmup=4)
    plain = l0.lagrangian(spec, 0.2).init(gates).violation
    state, targets = control.init(gates), []
    for _ in range(6):
        targets.append(float(plain - state.violation) + 0.2)
        state = control.update(state, gates)
    assert targets == pytest.approx([0.8, 0.8, 0.6, 0.4, 0.2, 0.2], abs=1e-6)


def test_mapped_controllers_are_the_single_ones(mlp):
    _, _, _, spec, gates = mlp
    controls = [l0.lagrangian(spec, target) for target in (0.2, 0.5)]
    both = [gates, {name: g - 1 for name, g in gates.items()}]
    singles = [c.update(c.update(c.init(g), g), g) for c, g in zip(controls, both, strict=True)]
    stacked_gates = {name: torch.stack([g[name] for g in both]) for name in gates}
    start = [c.init(g) for c, g in zip(controls, both, strict=True)]
    states = l0.LagrangianState(*(torch.stack(parts) for parts in zip(*start, strict=True)))
    update = torch.vmap(controls[0].update)
    assert_close(
        update(update(states, stacked_gates), stacked_gates), l0.LagrangianState(*map(torch.stack, zip(*singles, strict=True)))
    )


@pytest.mark.parametrize("target", [0.0, 1.0, 1.5, -0.1, float("nan")])
def test_a_target_outside_its_range_is_refused(mlp, target):
    with pytest.raises(ValueError, match=r"share of the dense network in \(0, 1\)"):
        l0.lagrangian(mlp[3], target)


def test_a_target_below_what_stays_is_refused_with_the_bound(mlp):
    with pytest.raises(ValueError, match=r"0\.1509 of it is still there: '0\.bias', '2\.bias'"):
        l0.lagrangian(mlp[3], 0.1)
    l0.lagrangian(mlp[3], {"*.weight": 0.1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"measure": "flops"}, "measure is one of"),
        ({"measure": "macs"}, "go with measure='macs'"),
        ({"estimator": "mean"}, "never closes a gate"),
        ({"lr": -1.0}, "lr is a finite number"),
        ({"damping": float("inf")}, "damping is a finite number"),
        ({"target": {"typo": 0.5}}, "matches no parameter"),
        ({"target": {}}, "at least one pattern"),
    ],
)
def test_settings_that_mean_nothing_are_refused(mlp, settings, message):
    with pytest.raises(ValueError, match=message):
        l0.lagrangian(mlp[3], **{"target": 0.5, **settings})


@pytest.mark.parametrize("target", [0.2, 0.1])
def test_a_trained_network_keeps_what_was_asked_for(target):
    from sklearn.datasets import load_digits

    x, y = (torch.as_tensor(a) for a in load_digits(return_X_y=True))
    x = x.float() / 16
    torch.manual_seed(0)
    fn, params, buffers = l0.make_functional(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)))
    spec = l0.gate_spec(params, {"*.weight": l0.element()})
    gates = l0.init_gates(l0.random.key(0), spec)
    apply, control = l0.gated(fn, spec), l0.lagrangian(spec, target)
    state = control.init(gates)
    leaves = [t.requires_grad_() for t in (*params.values(), *gates.values())]
    adam = torch.optim.Adam([{"params": leaves[:4], "lr": 0.01}, {"params": leaves[4:], "lr": 0.1}])
    for step in range(1500):
        batch = torch.arange(64) + 64 * (step % 22)
        output = apply(params, gates, buffers, l0.random.fold_in(l0.random.key(1), step), x[batch])
        (nn.functional.cross_entropy(output, y[batch]) + control.penalty(state, gates)).backward()
        adam.step()
        adam.zero_grad()
        state = control.update(state, gates)
    assert abs(realised(params, gates, spec) - target) <= 0.01
