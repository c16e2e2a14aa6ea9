"""Rules, specs, masks and costs against entry-by-entry twins, and against averages over draws."""

from __future__ import annotations

import json
import math
import pickle
from typing import Any

import oracles
import pytest
import torch
from torch import Tensor

import l0func as l0
from l0func import costs, random, rules
from l0func.gates import deterministic_gates
from l0func.prune import open_entries

KEY = random.key(0)


def tensors(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    return {name: random.normal(random.fold_in(KEY, i), shape) for i, (name, shape) in enumerate(shapes.items())}


def plans() -> dict[str, tuple[dict[str, Tensor], l0.GateSpec]]:
    """Specs that between them use every rule, in every role."""
    mlp = tensors(w1=(4, 3), b1=(4,), w2=(2, 4))
    conv = tensors(conv=(4, 2, 3, 3), fc=(2, 8))
    lstm = tensors(w_ih=(16, 3), w_hh=(16, 4), out=(2, 4))
    heads = tensors(q=(8, 4), k=(4, 4), v=(4, 4), o=(4, 8))
    hidden = l0.group({"w2": l0.axis(1)}, owns={"w1": l0.axis(0), "b1": l0.axis(0)})
    unit = l0.group({"w_hh": l0.axis(1), "out": l0.axis(1)}, owns={"w_ih": l0.tiles(0, 4), "w_hh": l0.tiles(0, 4)})
    head = l0.group(
        {"o": l0.blocks(1, 2)},
        owns={"q": l0.blocks(0, 2), "k": l0.blocks(0, 2, sharers=2), "v": [l0.blocks(0, 2, sharers=2)]},
    )
    return {
        "every_scalar": (mlp, l0.gate_spec(mlp)),
        "excluded": (mlp, l0.gate_spec(mlp, {"b*": None, "*": l0.element()})),
        "rows_and_columns": (mlp, l0.gate_spec(mlp, {"w1": [l0.axis(0), l0.axis(-1)], "w2": [l0.element(), l0.whole()]})),
        "parts": (conv, l0.gate_spec(conv, {"conv": l0.axis(0, 1, 3), "fc": l0.blocks(1, 2, start=2, stop=6)})),
        "planes": (conv, l0.gate_spec(conv, {"conv": l0.axes(0, 1), "fc": l0.tiles(1, 4)})),
        "hidden_units": (mlp, l0.gate_spec(mlp, groups={"hidden": hidden})),
        "units_and_weights": (mlp, l0.gate_spec(mlp, {"w*": l0.element()}, groups={"hidden": hidden})),
        "lstm_units": (lstm, l0.gate_spec(lstm, groups={"unit": unit})),
        "twice_multiplied": (lstm, l0.gate_spec(lstm, groups={"u": l0.group({"w_hh": [l0.axis(1), l0.tiles(0, 4)]})})),
        "grouped_query_heads": (heads, l0.gate_spec(heads, groups={"head": head})),
        "other_distributions": (
            mlp,
            l0.gate_spec(mlp, distribution={"w1": l0.GaussianGate(), "w2": l0.HardKuma(), "*": l0.HardConcrete(0.5)}),
        ),
    }


PLANS = plans()
every = pytest.mark.parametrize("name", PLANS)


def plan(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor], l0.GateSpec]:
    params, spec = PLANS[name]
    gates = l0.init_gates(KEY, spec, droprate=0.4, noise=1.0)
    return params, gates, spec


def dense(values: dict[str, Tensor], name: str, number: int) -> float:
    return values[name].reshape(-1)[number].item()


@every
def test_masks_multiply_the_distinct_gates_of_every_entry(name):
    _, gates, spec = plan(name)
    key = random.key(5)
    drawn = {
        g.name: g.distribution.quantile(
            torch.tensor(oracles.uniform(oracles.gate_key((5, 0), g.name), math.prod(g.shape))).reshape(g.shape), gates[g.name]
        )
        for g in spec.gates
    }
    masks = l0.sample_masks(key, gates, spec)
    assert set(masks) == {p.path for p in spec.parameters if any(b.multiplies for b in p.bindings)}
    for p in spec.parameters:
        if p.path not in masks:
            continue
        mask = masks[p.path]
        assert mask.dim() == len(p.shape)
        full = mask.expand(p.shape)
        for at, entry in ((a, e) for a, e in oracles.entries(spec) if a.path == p.path):
            expected = oracles.factors(at, entry, lambda g, n: dense(drawn, g, n), lambda g, n: 1.0)
            assert full[entry].item() == pytest.approx(expected, abs=1e-6)


@every
def test_costs_equal_sums_over_entries(name):
    params, gates, spec = plan(name)
    value = {
        kind: {g.name: getattr(g.distribution, kind)(gates[g.name].double()) for g in spec.gates}
        for kind in ("prob_nonzero", "second_moment", "mean")
    }

    def at(kind: str) -> Any:
        return lambda g, n: dense(value[kind], g, n)

    opened = [oracles.factors(p, e, at("prob_nonzero"), at("prob_nonzero")) for p, e in oracles.entries(spec)]
    squares = [
        params[p.path][e].item() ** 2 * oracles.factors(p, e, at("second_moment"), at("prob_nonzero"))
        for p, e in oracles.entries(spec)
    ]
    wd = [
        (2e-3 + 0.5 * 0.7 * params[p.path][e].item() ** 2) * o for (p, e), o in zip(oracles.entries(spec), opened, strict=True)
    ]
    everything = sum(t.numel() for t in params.values())
    means = sum(
        (params[p.path][e].item() * oracles.factors(p, e, at("mean"), lambda g, n: 1.0)) ** 2 for p, e in oracles.entries(spec)
    ) + sum((params[p.path] ** 2).sum().item() for p in spec.parameters if not p.bindings)
    assert l0.expected_l0(gates, spec).item() == pytest.approx(math.fsum(opened), rel=1e-5)
    assert l0.expected_sparsity(gates, spec).item() == pytest.approx((len(opened) - math.fsum(opened)) / everything, abs=1e-6)
    assert l0.expected_l2(params, gates, spec).item() == pytest.approx(math.fsum(squares), rel=1e-5)
    assert l0.penalty(params, gates, spec, 2e-3, weight_decay=0.7).item() == pytest.approx(math.fsum(wd), rel=1e-5)
    assert l0.squared_mean(params, gates, spec).item() == pytest.approx(means, rel=1e-5)


@every
def test_expectations_are_averages_over_keys(name):
    params, gates, spec = plan(name)
    n = 20_000
    keys = random.split(random.key(2), n)

    def draw(key: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        masks = l0.sample_masks(key, gates, spec)
        z = costs_draw(key, gates, spec)
        opened = {g: (v != 0).to(v.dtype) for g, v in z.items()}
        entries = {p.path: p.lay_out(opened, owned=True).expand(p.shape) for p in spec.gated()}
        weights = {p.path: params[p.path] * masks[p.path] if p.path in masks else params[p.path] for p in spec.gated()}
        squares = sum(((weights[path] * opens) ** 2).sum() for path, opens in entries.items())
        return masks, sum(e.sum() for e in entries.values()), squares

    masks, opened, squares = torch.vmap(draw, chunk_size=5000)(keys)
    for path, mean in l0.mean_masks(gates, spec).items():
        error = (masks[path].double().mean(0) - mean).abs()
        assert (error <= 5 * masks[path].double().std(0) / math.sqrt(n) + 1e-6).all()
    for values, expected in ((opened, l0.expected_l0(gates, spec)), (squares, l0.expected_l2(params, gates, spec))):
        error = abs(values.double().mean().item() - expected.item())
        assert error <= 5 * values.double().std().item() / math.sqrt(n)


def costs_draw(key: Tensor, gates: dict[str, Tensor], spec: l0.GateSpec) -> dict[str, Tensor]:
    from l0func.gates import sample_gates

    return sample_gates(key, gates, spec)


def test_a_recurrent_weight_counts_a_unit_on_its_own_weight_once():
    params = tensors(w_hh=(8, 8))
    unit = l0.group({"w_hh": l0.axis(1)}, owns={"w_hh": l0.axis(0)})
    spec = l0.gate_spec(params, groups={"unit": unit})
    p = 0.5
    gates = {"unit": torch.full((8,), l0.HardConcrete().init(1 - p))}
    assert l0.expected_l0(gates, spec).item() == pytest.approx(8 * p + 56 * p * p, rel=1e-5)
    assert l0.expected_l0(gates, spec).item() > 64 * p * p


def test_gating_one_more_parameter_changes_no_other_mask():
    params = tensors(a=(3, 4), b=(5,), c=(2, 2))
    few = l0.gate_spec(params, {"a": l0.element()})
    many = l0.gate_spec(dict(reversed(params.items())))
    gates = l0.init_gates(KEY, many)
    masks = l0.sample_masks(KEY, gates, many)
    assert torch.equal(l0.sample_masks(KEY, {"a": gates["a"]}, few)["a"], masks["a"])
    assert torch.equal(l0.init_gates(KEY, few)["a"], gates["a"])


def test_a_tied_parameter_counts_once():
    encoder = torch.nn.Linear(3, 3, bias=False)
    decoder = torch.nn.Linear(3, 3, bias=False)
    decoder.weight = encoder.weight
    _, params, _ = l0.make_functional(torch.nn.Sequential(encoder, decoder))
    spec = l0.gate_spec(params)
    assert l0.expected_l0({"0.weight": torch.full((3, 3), 50.0)}, spec).item() == pytest.approx(9.0)


def test_penalty_is_the_papers_formula_and_maps_over_lambda():
    params, gates, spec = plan("every_scalar")
    probability = {name: torch.sigmoid(la - 2 / 3 * math.log(0.1 / 1.1)) for name, la in gates.items()}
    paper = sum(((0.01 + 0.5 * 0.3 * params[name] ** 2) * p).sum() for name, p in probability.items())
    torch.testing.assert_close(l0.penalty(params, gates, spec, 0.01, 0.3), paper)
    lams = torch.tensor([0.0, 0.01, 0.1])
    swept = torch.vmap(lambda lam: l0.penalty(params, gates, spec, lam))(lams)
    torch.testing.assert_close(swept, lams * l0.expected_l0(gates, spec))
    by_pattern = l0.penalty(params, gates, spec, {"w1": 0.1, "*": torch.tensor(0.02)})
    torch.testing.assert_close(
        by_pattern, 0.1 * probability["w1"].sum() + 0.02 * (probability["b1"].sum() + probability["w2"].sum())
    )


def test_lambda_may_differ_from_entry_to_entry():
    params, gates, spec = plan("hidden_units")
    price = random.uniform(random.key(3), (4, 3))
    opens = l0.HardConcrete().prob_nonzero(gates["hidden"])
    expected = (price * opens[:, None]).sum() + 0.5 * opens.sum() + 0.5 * 2 * opens.sum()
    torch.testing.assert_close(l0.penalty(params, gates, spec, {"w1": price, "*": 0.5}), expected)


def test_detached_weight_decay_reaches_the_gates_and_not_the_weights():
    params, gates, spec = plan("every_scalar")

    def cost(params: Any, gates: Any, detach: bool) -> Tensor:
        return l0.penalty(params, gates, spec, 0.0, weight_decay=1.0, detach_params=detach)

    weights, locations = torch.func.grad(cost, (0, 1))(params, gates, True)
    assert all((g == 0).all() for g in weights.values())
    whole, same = torch.func.grad(cost, (0, 1))(params, gates, False)
    assert all((g != 0).all() for g in whole.values())
    assert all(torch.equal(a, same[name]) for name, a in locations.items())


# Test-time masks, initialisation, and what pruning keeps.


@every
@pytest.mark.parametrize("estimator", ["louizos", "median", "mean", "count"])
def test_summary_announces_what_prune_leaves(name, estimator):
    params, gates, spec = plan(name)
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
    for p, entry in oracles.entries(spec):
        opened = oracles.factors(p, entry, lambda g, n: float(dense(z, g, n) != 0), lambda g, n: float(dense(z, g, n) != 0))
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
    params = {"half": torch.ones(3, dtype=torch.bfloat16), "wide": torch.ones(3, dtype=torch.float64)}
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
    gates = l0.init_gates(KEY, spec, droprate={"a": 0.3, "*": lambda key, shape: random.normal(key, shape) + 2.0})
    masks = l0.sample_masks(random.key(1), gates, spec)
    assert abs((masks["a"] == 0).float().mean().item() - 0.3) < 5 * math.sqrt(0.3 * 0.7 / 10_000) + 1e-3
    assert abs(gates["b"].mean().item() - 2.0) < 0.05
    assert gates["a"].std().item() == pytest.approx(0.01, rel=0.1)
    half = l0.init_gates(KEY, spec, droprate=0.3, noise=0.0, meaning="below_half")["a"]
    torch.testing.assert_close(half, torch.full((100, 100), math.log(0.7 / 0.3)))


def test_compensated_parameters_keep_their_mean_behind_the_gates():
    params, gates, spec = plan("units_and_weights")
    compensated = l0.compensate(params, gates, spec)
    restored = l0.apply_masks(compensated, l0.mean_masks(gates, spec))
    for path, p in params.items():
        torch.testing.assert_close(restored[path], p)


def test_nested_params_are_params_with_dotted_paths():
    nested = {"encoder": [{"w": torch.ones(2, 3)}, {"w": torch.ones(3)}], "head": (torch.ones(2),)}
    spec = l0.gate_spec(nested, {"encoder.*.w": l0.element()})
    assert [p.path for p in spec.parameters] == ["encoder.0.w", "encoder.1.w", "head.0"]
    gates = l0.init_gates(KEY, spec)
    masked = l0.apply_masks(nested, l0.sample_masks(KEY, gates, spec))
    assert isinstance(masked["encoder"], list)
    assert isinstance(masked["head"], tuple)
    assert masked["head"][0] is nested["head"][0]
    assert (masked["encoder"][0]["w"] <= 1).all()
    assert l0.prune(nested, gates, spec)["encoder"][1]["w"].shape == (3,)


@every
def test_a_spec_is_a_value_that_survives_json(name):
    _, spec = PLANS[name]
    again = l0.GateSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    assert hash(again) == hash(spec)
    assert pickle.loads(pickle.dumps(spec)) == spec
    gates = l0.init_gates(KEY, spec)
    for path, mask in l0.sample_masks(KEY, gates, again).items():
        assert torch.equal(mask, l0.sample_masks(KEY, gates, spec)[path])
    assert all(p.path in str(spec) for p in spec.parameters)


def test_a_spec_with_another_distribution_is_the_spec_built_with_it():
    params = {"a": torch.ones(2, 3), "b": torch.ones(4)}
    spec, colder = l0.gate_spec(params), l0.HardConcrete(0.3)
    assert spec.with_distribution(colder) == l0.gate_spec(params, distribution=colder)
    mixed = {"a": colder, "*": l0.HardKuma()}
    assert spec.with_distribution(mixed) == l0.gate_spec(params, distribution=mixed)
    with pytest.raises(ValueError, match="No pattern gives a distribution to the gate 'b'"):
        spec.with_distribution({"a": colder})
    with pytest.raises(TypeError, match="distribution"):
        spec.with_distribution(0.3)


def test_buffers_are_owned_and_cost_nothing():
    bn = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    _, params, buffers = l0.make_functional(bn)
    unit = l0.group({"2.weight": l0.axis(1)}, owns={"0.weight": l0.axis(0), "1.running_mean": l0.axis(0)}, attrs={"width": 4})
    spec = l0.gate_spec(params, groups={"unit": unit}, buffers=buffers)
    assert [b.path for b in spec.buffers] == ["1.running_mean"]
    assert spec.attrs == (("unit", '{"width": 4}'),)
    assert l0.expected_l0({"unit": torch.full((4,), 50.0)}, spec).item() == pytest.approx(2 * 4 + 4 * 3)


def test_rules_print_as_they_are_written():
    assert repr(l0.axis(0)) == "axis(dim=0)"
    assert repr(l0.blocks(1, 2, stop=4)) == "blocks(dim=1, size=2, stop=4)"
    assert [rules.from_dict(r.to_dict()) for r in (l0.axes(0, 1), l0.whole(), l0.tiles(0, 4))] == [
        l0.axes(0, 1),
        l0.whole(),
        l0.tiles(0, 4),
    ]


def test_open_entries_and_expected_density_agree_when_gates_have_decided():
    _, _, spec = plan("units_and_weights")
    gates = {g.name: torch.where(random.uniform(KEY, g.shape) < 0.5, -40.0, 40.0) for g in spec.gates}
    kept = sum(e.sum() for e in open_entries(deterministic_gates(gates, spec, "louizos"), spec).values())
    assert kept.item() == pytest.approx(l0.expected_l0(gates, spec).item(), abs=1e-3)
    assert costs.prob_open(gates, spec)["w1"].shape == (4, 3)
