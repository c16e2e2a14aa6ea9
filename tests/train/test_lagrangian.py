"""A target in place of λ: measures by hand, the answer of the multiplier, and what cannot be
reached.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import l0func as l0


@pytest.fixture
def mlp():
    fn, params, buffers = l0.make_functional(
        nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    )
    spec = l0.gate_spec(params, {"*.weight": l0.element()})
    gates = {
        g.name: 3 * l0.random.normal(l0.random.fold_in(l0.random.key(0), i), g.shape)
        for i, g in enumerate(spec.gates)
    }
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
    assert_close(
        by_macs.violation,
        torch.tensor([l0.realised_macs(gates, spec, counts) / counts.total - 0.4]),
    )
    by_l0 = l0.lagrangian(spec, {"*.weight": 20}, measure="l0").init(gates)
    by_density = l0.lagrangian(spec, {"*.weight": 20 / 45}).init(gates)
    assert_close(by_l0, by_density)


def test_the_penalty_is_the_price_times_the_expected_excess_and_its_gradient(mlp):
    _, _, _, spec, gates = mlp
    control = l0.lagrangian(spec, {"0.weight": 0.3, "*": 0.5}, damping=2.0)
    state = control.init(gates)._replace(
        multiplier=torch.tensor([0.7, 0.1]), violation=torch.tensor([0.2, -0.03])
    )

    def by_hand(gates):
        opens = {
            name: g.distribution.prob_nonzero(gates[name])
            for name, g in zip(gates, spec.gates, strict=True)
        }
        first = opens["0.weight"].mean() / 0.3 - 1
        whole = (opens["0.weight"].sum() + opens["2.weight"].sum() + 8) / 53 / 0.5 - 1
        return (0.7 + 2 * 0.2 / 0.3) * first + max(0.0, 0.1 - 2 * 0.03 / 0.5) * whole

    assert_close(control.penalty(state, gates), by_hand(gates))
    ours, theirs = (
        torch.func.grad(f)(gates) for f in (lambda g: control.penalty(state, g), by_hand)
    )
    assert_close(ours, theirs)


def test_the_multiplier_rises_while_the_target_is_missed_and_restarts_when_it_is_met(mlp):
    _, _, _, spec, gates = mlp
    closed = {name: torch.full_like(g, -9.0) for name, g in gates.items()}
    control = l0.lagrangian(spec, 0.3, lr=0.1)
    missed = control.update(control.init(gates), gates)
    assert_close(missed.multiplier, 0.1 * missed.violation / 0.3)
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
        update(update(states, stacked_gates), stacked_gates),
        l0.LagrangianState(*map(torch.stack, zip(*singles, strict=True))),
    )


@pytest.mark.parametrize("estimator", ["louizos", "median", "count"])
def test_a_diverged_network_meets_no_target(mlp, estimator):
    _, _, _, spec, gates = mlp
    control = l0.lagrangian(spec, 0.6, estimator=estimator)
    assert control.init({**gates, "0.weight": gates["0.weight"] * torch.nan}).violation.isnan()


def test_the_state_of_another_controller_is_refused(mlp):
    _, _, _, spec, gates = mlp
    two = l0.lagrangian(spec, {"0.weight": 0.3, "*": 0.5})
    with pytest.raises(
        ValueError, match=r"2 constraints and the state has targets of shape \(1,\)"
    ):
        two.update(l0.lagrangian(spec, 0.5).init(gates), gates)
    with pytest.raises(ValueError, match="2 constraints"):
        two.penalty(l0.lagrangian(spec, 0.5).init(gates), gates)


def test_half_precision_counts_and_learns():
    spec = l0.gate_spec({"w": torch.zeros(300, 300)})
    gates = {"w": torch.full((300, 300), 3.0, dtype=torch.float16)}
    control = l0.lagrangian(spec, 0.5)
    state = control.init(gates)
    assert_close(state.violation, torch.tensor([0.5]))
    assert control.update(state._replace(multiplier=torch.ones(1)), gates).multiplier > 1.0


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


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    x, y = (torch.as_tensor(a) for a in load_digits(return_X_y=True))
    return x.float() / 16, y


def trained(module, data, spec_of, controls_of, steps=700):
    """A stack that differs in its control only; what each member keeps, by the controller's
    measure.
    """
    torch.manual_seed(0)
    fn, params, buffers = l0.make_functional(module())
    spec = spec_of(params)
    apply, controls = l0.gated(fn, spec), controls_of(fn, params, buffers, spec)

    def loss(params, gates, buffers, key, x, y):
        return nn.functional.cross_entropy(apply(params, gates, buffers, key, x), y)

    adams = [l0.optimizer(torch.optim.Adam, lr=lr) for lr in (0.01, 0.1)]
    gates = l0.init_gates(l0.random.key(0), spec)
    starts = [
        l0.training(loss, *adams, control=c).init(l0.random.key(1), params, gates, buffers)
        for c in controls
    ]
    sweep = l0.training(loss, *adams, control=controls[0], in_dims=(None, None), donate=True)
    states, (x, y) = l0.stack(starts), data
    for step in range(steps):
        rows = torch.arange(64) + 64 * (step % 22)
        states, _ = sweep.step(states, x[rows], y[rows])
    return spec, l0.unstack(states)


TARGETS = (0.5, 0.1, 0.02)


@pytest.mark.parametrize(
    "estimator",
    [pytest.param(e, marks=pytest.mark.slow) for e in ("louizos", "median", "count")],
)
def test_every_target_of_a_sweep_is_kept_within_a_point_under_its_estimator(digits, estimator):
    spec, members = trained(
        lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
        digits,
        lambda params: l0.gate_spec(params, {"*.weight": l0.element()}),
        lambda fn, params, buffers, spec: [
            l0.lagrangian(spec, {"*.weight": target}, estimator=estimator) for target in TARGETS
        ],
        steps=700 if estimator == "louizos" else 1500,
    )
    for target, member in zip(TARGETS, members, strict=True):
        rows = [
            r
            for r in l0.summary(member.params, member.gates, spec, estimator).rows
            if r.name.endswith("weight")
        ]
        kept = sum(r.realised_open for r in rows) / sum(r.entries for r in rows)
        assert abs(kept - target) <= 0.01, (target, kept)


@pytest.mark.slow
def test_multiply_adds_of_whole_units_are_kept_within_a_point(digits):
    counts = []

    def controls(fn, params, buffers, spec):
        counts.append(l0.count_macs(fn, params, buffers, digits[0][:1]))
        return [
            l0.lagrangian(spec, target, measure="macs", counts=counts[0]) for target in (0.4, 0.1)
        ]

    units = {
        "pixels": l0.group({"0.weight": l0.axis(1)}),
        "hidden": l0.group(
            {"2.weight": l0.axis(1)}, owns={"0.weight": l0.axis(0), "0.bias": l0.axis(0)}
        ),
    }
    spec, members = trained(
        lambda: nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)),
        digits,
        lambda params: l0.gate_spec(params, groups=units),
        controls,
    )
    for target, member in zip((0.4, 0.1), members, strict=True):
        kept = l0.realised_macs(member.gates, spec, counts[0]) / counts[0].total
        assert abs(kept - target) <= 0.01, (target, kept)


@pytest.mark.slow
def test_each_pattern_has_its_own_multiplier_and_keeps_its_own_target(digits):
    spec, (member,) = trained(
        lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
        digits,
        lambda params: l0.gate_spec(params, {"*.weight": l0.element()}),
        lambda fn, params, buffers, spec: [
            l0.lagrangian(spec, {"0.weight": 0.05, "2.weight": 0.3})
        ],
    )
    kept = {
        r.name: r.realised_open / r.entries
        for r in l0.summary(member.params, member.gates, spec).rows
    }
    assert kept["0.weight"] == pytest.approx(0.05, abs=0.01)
    assert kept["2.weight"] == pytest.approx(0.3, abs=0.01)


@pytest.mark.compiles
def test_a_target_of_multiply_adds_compiles_where_a_layer_has_no_gates(mlp):
    fn, params, buffers, _, _ = mlp
    spec = l0.gate_spec(params, {"0.weight": l0.element()})
    gates = {"0.weight": torch.linspace(-4, 4, 30).reshape(5, 6)}
    control = l0.lagrangian(
        spec, 0.6, measure="macs", counts=l0.count_macs(fn, params, buffers, torch.ones(1, 6))
    )
    state = control.init(gates)
    compiled = torch.compile(
        lambda g: (control.penalty(state, g), control.update(state, g)),
        fullgraph=True,
        backend="aot_eager",
    )
    assert_close(compiled(gates), (control.penalty(state, gates), control.update(state, gates)))
