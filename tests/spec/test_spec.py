"""Specs: values that survive JSON, over flat and nested parameters."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from specs import KEY, SPECS, every

import l0func as l0


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
    _, spec = SPECS[name]
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
    unit = l0.group(
        {"2.weight": l0.axis(1)},
        owns={"0.weight": l0.axis(0), "1.running_mean": l0.axis(0)},
        attrs={"width": 4},
    )
    spec = l0.gate_spec(params, groups={"unit": unit}, buffers=buffers)
    assert [b.path for b in spec.buffers] == ["1.running_mean"]
    assert spec.attrs == (("unit", '{"width": 4}'),)
    assert l0.expected_l0({"unit": torch.full((4,), 50.0)}, spec).item() == pytest.approx(
        2 * 4 + 4 * 3
    )


@pytest.mark.parametrize("name", ["a[0]", "a*", "b?", "[ab]", "layers[1].weight"])
def test_a_path_with_wildcards_in_it_is_a_pattern_for_itself(name):
    params = {name: torch.ones(2), "other": torch.ones(2)}
    spec = l0.gate_spec(params, {name: l0.element()}, distribution={name: l0.GaussianGate()})
    assert [gate.name for gate in spec.gates] == [name]
    gates = {name: torch.zeros(2)}
    assert l0.penalty(params, gates, spec, lam={name: 1.0}) > 0
    l0.lagrangian(spec, {name: 0.5})
    assert l0.prune(params, gates, spec, density={name: 0.5})[name].count_nonzero() == 1
    excluded = l0.gate_spec(params, {name: None, "*": l0.element()})
    assert [gate.name for gate in excluded.gates] == ["other"]
