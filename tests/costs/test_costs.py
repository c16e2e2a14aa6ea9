"""Expected costs against entry-by-entry twins, and against averages over draws."""

from __future__ import annotations

import math
from typing import Any

import oracles
import pytest
import torch
from specs import dense, every, example, tensors
from torch import Tensor

import l0func as l0
from l0func import random
from l0func.gates.masks import sample_gates


@every
def test_costs_equal_sums_over_entries(name):
    params, gates, spec = example(name)
    value = {
        kind: {g.name: getattr(g.distribution, kind)(gates[g.name].double()) for g in spec.gates}
        for kind in ("prob_nonzero", "second_moment", "mean")
    }

    def at(kind: str) -> Any:
        return lambda g, n: dense(value[kind], g, n)

    opened = [
        oracles.factors(p, e, at("prob_nonzero"), at("prob_nonzero"))
        for p, e in oracles.entries(spec)
    ]
    squares = [
        params[p.path][e].item() ** 2
        * oracles.factors(p, e, at("second_moment"), at("prob_nonzero"))
        for p, e in oracles.entries(spec)
    ]
    wd = [
        (2e-3 + 0.5 * 0.7 * params[p.path][e].item() ** 2) * o
        for (p, e), o in zip(oracles.entries(spec), opened, strict=True)
    ]
    everything = sum(t.numel() for t in params.values())
    means = sum(
        (params[p.path][e].item() * oracles.factors(p, e, at("mean"), lambda g, n: 1.0)) ** 2
        for p, e in oracles.entries(spec)
    ) + sum((params[p.path] ** 2).sum().item() for p in spec.parameters if not p.bindings)
    assert l0.expected_l0(gates, spec).item() == pytest.approx(math.fsum(opened), rel=1e-5)
    assert l0.expected_sparsity(gates, spec).item() == pytest.approx(
        (len(opened) - math.fsum(opened)) / everything, abs=1e-6
    )
    assert l0.expected_l2(params, gates, spec).item() == pytest.approx(
        math.fsum(squares), rel=1e-5
    )
    assert l0.penalty(params, gates, spec, 2e-3, weight_decay=0.7).item() == pytest.approx(
        math.fsum(wd), rel=1e-5
    )
    assert l0.squared_mean(params, gates, spec).item() == pytest.approx(means, rel=1e-5)


@every
def test_expectations_are_averages_over_keys(name):
    params, gates, spec = example(name)
    n = 20_000
    keys = random.split(random.key(2), n)

    def draw(key: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        masks = l0.sample_masks(key, gates, spec)
        z = sample_gates(key, gates, spec)
        opened = {g: (v != 0).to(v.dtype) for g, v in z.items()}
        entries = {p.path: p.spread(opened, owned=True).expand(p.shape) for p in spec.gated()}
        weights = {
            p.path: params[p.path] * masks[p.path] if p.path in masks else params[p.path]
            for p in spec.gated()
        }
        squares = sum(((weights[path] * opens) ** 2).sum() for path, opens in entries.items())
        return masks, sum(e.sum() for e in entries.values()), squares

    masks, opened, squares = torch.vmap(draw, chunk_size=5000)(keys)
    for path, mean in l0.mean_masks(gates, spec).items():
        error = (masks[path].double().mean(0) - mean).abs()
        assert (error <= 5 * masks[path].double().std(0) / math.sqrt(n) + 1e-6).all()
    for values, expected in (
        (opened, l0.expected_l0(gates, spec)),
        (squares, l0.expected_l2(params, gates, spec)),
    ):
        error = abs(values.double().mean().item() - expected.item())
        assert error <= 5 * values.double().std().item() / math.sqrt(n)


def test_a_recurrent_weight_counts_a_unit_on_its_own_weight_once():
    params = tensors(w_hh=(8, 8))
    unit = l0.group({"w_hh": l0.axis(1)}, owns={"w_hh": l0.axis(0)})
    spec = l0.gate_spec(params, groups={"unit": unit})
    p = 0.5
    gates = {"unit": torch.full((8,), l0.HardConcrete().init(1 - p))}
    assert l0.expected_l0(gates, spec).item() == pytest.approx(8 * p + 56 * p * p, rel=1e-5)
    assert l0.expected_l0(gates, spec).item() > 64 * p * p


def test_a_tied_parameter_counts_once():
    encoder = torch.nn.Linear(3, 3, bias=False)
    decoder = torch.nn.Linear(3, 3, bias=False)
    decoder.weight = encoder.weight
    _, params, _ = l0.make_functional(torch.nn.Sequential(encoder, decoder))
    spec = l0.gate_spec(params)
    assert l0.expected_l0({"0.weight": torch.full((3, 3), 50.0)}, spec).item() == pytest.approx(
        9.0
    )


def test_penalty_is_the_papers_formula_and_maps_over_lambda():
    params, gates, spec = example("every_scalar")
    probability = {
        name: torch.sigmoid(la - 2 / 3 * math.log(0.1 / 1.1)) for name, la in gates.items()
    }
    paper = sum(
        ((0.01 + 0.5 * 0.3 * params[name] ** 2) * p).sum() for name, p in probability.items()
    )
    torch.testing.assert_close(l0.penalty(params, gates, spec, 0.01, 0.3), paper)
    lams = torch.tensor([0.0, 0.01, 0.1])
    swept = torch.vmap(lambda lam: l0.penalty(params, gates, spec, lam))(lams)
    torch.testing.assert_close(swept, lams * l0.expected_l0(gates, spec))
    by_pattern = l0.penalty(params, gates, spec, {"w1": 0.1, "*": torch.tensor(0.02)})
    torch.testing.assert_close(
        by_pattern,
        0.1 * probability["w1"].sum() + 0.02 * (probability["b1"].sum() + probability["w2"].sum()),
    )


def test_lambda_may_differ_from_entry_to_entry():
    params, gates, spec = example("hidden_units")
    price = random.uniform(random.key(3), (4, 3))
    opens = l0.HardConcrete().prob_nonzero(gates["hidden"])
    expected = (price * opens[:, None]).sum() + 0.5 * opens.sum() + 0.5 * 2 * opens.sum()
    torch.testing.assert_close(l0.penalty(params, gates, spec, {"w1": price, "*": 0.5}), expected)


@pytest.mark.parametrize("rule", [l0.element(), l0.axis(0), l0.whole()], ids=repr)
@pytest.mark.parametrize("lam", [1e-3, 0.1, 0.3, 0.7])
def test_a_price_as_a_tensor_costs_the_bits_of_the_number(rule, lam):
    params = {"w": random.normal(random.key(1), (40, 30))}
    spec = l0.gate_spec(params, {"w": rule})
    gates = l0.init_gates(random.key(0), spec, noise=2.0)
    cost = l0.penalty(params, gates, spec, lam)
    assert torch.equal(l0.penalty(params, gates, spec, torch.tensor(lam)), cost)
    assert torch.equal(l0.penalty(params, gates, spec, {"*": torch.tensor(lam)}), cost)


def test_detached_weight_decay_reaches_the_gates_and_not_the_weights():
    params, gates, spec = example("every_scalar")

    def cost(params: Any, gates: Any, detach: bool) -> Tensor:
        return l0.penalty(params, gates, spec, 0.0, weight_decay=1.0, detach_params=detach)

    weights, locations = torch.func.grad(cost, (0, 1))(params, gates, True)
    assert all((g == 0).all() for g in weights.values())
    whole, same = torch.func.grad(cost, (0, 1))(params, gates, False)
    assert all((g != 0).all() for g in whole.values())
    assert all(torch.equal(a, same[name]) for name, a in locations.items())


@pytest.mark.parametrize("decay", [torch.arange(3.0), torch.ones(2, 3), torch.ones(0)], ids=str)
def test_a_weight_decay_of_several_numbers_is_refused(decay):
    params = {"w": torch.ones(2, 3)}
    spec = l0.gate_spec(params)
    message = r"weight_decay is one number.*shape \(.*lam, which broadcasts"
    with pytest.raises(ValueError, match=message):
        l0.penalty(params, {"w": torch.zeros(2, 3)}, spec, lam=0.0, weight_decay=decay)
    with pytest.raises(ValueError, match=message):
        l0.L0Module(torch.nn.Linear(3, 2), lam=0.0, weight_decay=decay)
    net = l0.L0Module(torch.nn.Linear(3, 2), lam=0.0, weight_decay=0.5)
    net.weight_decay = decay
    with pytest.raises(ValueError, match=message):
        net.regularization()


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_weight_decay_of_one_entry_gives_one_number(shape):
    params, gates, spec = example("units_and_weights")
    decay = torch.full(shape, 0.5, requires_grad=True)
    cost = l0.penalty(params, gates, spec, 0.0, weight_decay=decay)
    assert cost.shape == ()
    assert cost.item() == l0.penalty(params, gates, spec, 0.0, weight_decay=0.5).item()
    assert torch.autograd.grad(cost, decay)[0].shape == shape
