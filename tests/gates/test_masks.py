"""Masks, pruning and initial gates, against entry-by-entry twins and averages over draws."""

from __future__ import annotations

import math

import oracles
import pytest
import torch
from specs import KEY, dense, every, example, tensors

import l0func as l0
from l0func import random
from l0func.costs import expected as costs
from l0func.gates.masks import deterministic_gates
from l0func.gates.prune import open_entries


def is_multiplied(p):
    return any(binding.multiplies for binding in p.bindings)


@every
def test_masks_multiply_the_distinct_gates_of_every_entry(name):
    _, gates, spec = example(name)
    key = random.key(5)
    drawn = {}
    for g in spec.gates:
        numbers = oracles.uniform(oracles.gate_key((5, 0), g.name), math.prod(g.shape))
        u = torch.tensor(numbers).reshape(g.shape)
        drawn[g.name] = g.distribution.quantile(u, gates[g.name])
    masks = l0.sample_masks(key, gates, spec)
    multiplied = [p.path for p in spec.parameters if is_multiplied(p)]
    assert set(masks) == set(multiplied)
    for p in spec.parameters:
        if p.path not in masks:
            continue
        mask = masks[p.path]
        assert mask.dim() == len(p.shape)
        full = mask.expand(p.shape)
        for at, entry in ((a, e) for a, e in oracles.entries(spec) if a.path == p.path):
            expected = oracles.factors(
                at, entry, lambda g, n: dense(drawn, g, n), lambda g, n: 1.0
            )
            assert full[entry].item() == pytest.approx(expected, abs=1e-6)


def test_gating_one_more_parameter_changes_no_other_mask():
    params = tensors(a=(3, 4), b=(5,), c=(2, 2))
    few = l0.gate_spec(params, {"a": l0.element()})
    many = l0.gate_spec(dict(reversed(params.items())))
    gates = l0.init_gates(KEY, many)
    masks = l0.sample_masks(KEY, gates, many)
    assert torch.equal(l0.sample_masks(KEY, {"a": gates["a"]}, few)["a"], masks["a"])
    assert torch.equal(l0.init_gates(KEY, few)["a"], gates["a"])


# Test-time masks, initialisation, and what pruning keeps.


@every
@pytest.mark.parametrize("estimator", ["louizos", "median", "mean", "count"])
def test_summary_announces_what_prune_leaves(name, estimator):
    params, gates, spec = example(name)
    params = {path: p.abs() + 0.1 for path, p in params.items()}
    table = l0.summary(params, gates, spec, estimator)
    pruned = l0.prune(params, gates, spec, estimator)
    assert [row.name for row in table.rows] == list(params)
    for row in table.rows:
        assert row.realised_open == (pruned[row.name] != 0).sum().item()
    masks = l0.deterministic_masks(gates, spec, estimator)
    masked = l0.apply_masks(params, masks)
    for path, p in pruned.items():
        assert torch.equal(p, torch.where(p != 0, masked[path], 0))
    z = deterministic_gates(gates, spec, estimator)

    def is_open(gate, number):
        return float(dense(z, gate, number) != 0)

    for p, entry in oracles.entries(spec):
        opened = oracles.factors(p, entry, is_open, is_open)
        assert bool(pruned[p.path][entry] != 0) == bool(opened)


def test_count_leaves_as_many_gates_open_as_are_expected_to_be():
    params = tensors(w=(40, 50))
    spec = l0.gate_spec(params)
    gates = l0.init_gates(KEY, spec, droprate=0.6, noise=2.0)
    mask = l0.deterministic_masks(gates, spec, "count")["w"]
    assert (mask != 0).sum().item() == round(l0.expected_l0(gates, spec).item())
    assert gates["w"][mask != 0].min() >= gates["w"][mask == 0].max()
    rows = torch.stack([gates["w"], gates["w"].flip(0)])
    mapped = torch.vmap(lambda la: l0.deterministic_masks({"w": la}, spec, "count")["w"])(rows)
    assert torch.equal(mapped[0], mask)


def test_masks_have_the_parameters_dtype_and_gates_are_wide():
    params = {
        "half": torch.ones(3, dtype=torch.bfloat16),
        "wide": torch.ones(3, dtype=torch.float64),
    }
    spec = l0.gate_spec(params)
    gates = l0.init_gates(KEY, spec)
    assert (gates["half"].dtype, gates["wide"].dtype) == (torch.float32, torch.float64)
    masks = l0.sample_masks(KEY, gates, spec)
    assert (masks["half"].dtype, masks["wide"].dtype) == (torch.bfloat16, torch.float64)
    masked = l0.apply_masks(params, masks)
    assert masked["half"].dtype == torch.bfloat16


def test_gates_start_closed_with_probability_droprate():
    params = tensors(a=(100, 100), b=(100, 100))
    spec = l0.gate_spec(params)
    gates = l0.init_gates(
        KEY, spec, droprate={"a": 0.3, "*": lambda key, shape: random.normal(key, shape) + 2.0}
    )
    masks = l0.sample_masks(random.key(1), gates, spec)
    closed = (masks["a"] == 0).float().mean().item()
    assert abs(closed - 0.3) < 5 * math.sqrt(0.3 * 0.7 / 10_000) + 1e-3
    assert abs(gates["b"].mean().item() - 2.0) < 0.05
    assert gates["a"].std().item() == pytest.approx(0.01, rel=0.1)
    half = l0.init_gates(KEY, spec, droprate=0.3, noise=0.0, meaning="below_half")["a"]
    torch.testing.assert_close(half, torch.full((100, 100), math.log(0.7 / 0.3)))


def test_compensated_parameters_keep_their_mean_behind_the_gates():
    params, gates, spec = example("units_and_weights")
    compensated = l0.compensate(params, gates, spec)
    restored = l0.apply_masks(compensated, l0.mean_masks(gates, spec))
    for path, p in params.items():
        torch.testing.assert_close(restored[path], p)


@pytest.mark.parametrize(
    ("distribution", "location"),
    [
        (l0.GaussianGate(), -20.0),
        (l0.HardKuma(), -60.0),
        (l0.HardConcrete(), -80.0),
        (l0.HardConcrete(), -30.0),
        (l0.BernoulliGate(), -200.0),
    ],
    ids=str,
)
def test_weights_behind_gates_that_no_draw_opens_are_not_compensated(distribution, location):
    params = {"v": torch.ones(4), "w": torch.ones(2, 3)}
    rules = {"v": l0.element(), "w": [l0.axis(0), l0.axis(1)]}
    spec = l0.gate_spec(params, rules, distribution=distribution)
    gates = {g.name: torch.ones(g.shape) for g in spec.gates}
    gates["w:axis(dim=1)"] = torch.tensor([1.0, location, 1.0])
    message = r"gates 'w:axis\(dim=1\)' are all but closed: their mask on 'w' is \S+ on average"
    with pytest.raises(ValueError, match=message + ".*Raise these gates.*prune"):
        l0.compensate(params, gates, spec)
    compensated = l0.compensate(l0.prune(params, gates, spec), gates, spec)
    assert all(t.isfinite().all() for t in compensated.values())
    assert (compensated["w"][:, 1] == 0).all()


def test_a_compensated_weight_that_its_dtype_cannot_hold_is_refused():
    params = {"w": torch.full((3,), 2e3, dtype=torch.float16)}
    spec = l0.gate_spec(params)
    gates = {"w": torch.tensor([0.0, 0.0, -4.0])}
    with pytest.raises(ValueError, match="gates 'w' are all but closed"):
        l0.compensate(params, gates, spec)
    params["w"][2] = 2.0
    assert l0.compensate(params, gates, spec)["w"].isfinite().all()


def test_a_weight_behind_gates_that_are_open_once_in_fifty_thousand_draws_is_compensated():
    # The inverse of float16's largest number is 1.5e-5.
    params = {"w": torch.ones(2, dtype=torch.float16)}
    spec = l0.gate_spec(params, distribution=l0.BernoulliGate())
    gates = {"w": torch.full((2,), math.log(2e-5), dtype=torch.float32)}
    compensated = l0.compensate(params, gates, spec)["w"].double()
    torch.testing.assert_close(compensated, torch.full_like(compensated, 5e4), rtol=0.05, atol=0)


def test_open_entries_and_expected_density_agree_when_gates_have_decided():
    _, _, spec = example("units_and_weights")
    gates = {
        g.name: torch.where(random.uniform(KEY, g.shape) < 0.5, -40.0, 40.0) for g in spec.gates
    }
    kept = sum(
        e.sum() for e in open_entries(deterministic_gates(gates, spec, "louizos"), spec).values()
    )
    assert kept.item() == pytest.approx(l0.expected_l0(gates, spec).item(), abs=1e-3)
    assert costs.prob_open(gates, spec)["w1"].shape == (4, 3)


def test_gates_of_a_wrapper_with_rules_go_with_its_own_spec():
    net = l0.L0Module(
        torch.nn.Linear(3, 2), lam=1e-3, rules={"bias": None, "*": l0.element()}, seed=0
    )
    other = l0.gate_spec(net.weights())
    with pytest.raises(
        ValueError, match=r"'bias' is in the spec's gates and not.*or net\.spec for net\.gates\(\)"
    ):
        l0.prune(net.weights(), net.gates(), other)
    pruned = l0.prune(net.weights(), net.gates(), net.spec)
    assert torch.equal(pruned["bias"], net.weights()["bias"])
