"""A spec as an earlier version wrote it: today's code reads it, and writes the same text."""

from __future__ import annotations

import torch

import l0func as l0

# Every rule, both roles, a buffer and attrs.
OLD = (
    '{"gates": [{"name": "fc1.weight:element()", "shape": [4, 3], "dtype": "float32", '
    '"kind": "HardConcrete", "temperature": 0.6666666666666666, "gamma": -0.1, "zeta": 1.1}, '
    '{"name": "fc1.weight:axis(dim=-1, start=1, stop=3)", "shape": [2], "dtype": "float32", '
    '"kind": "HardConcrete", "temperature": 0.6666666666666666, "gamma": -0.1, "zeta": 1.1}, '
    '{"name": "conv.weight", "shape": [4, 2], "dtype": "float32", "kind": "HardConcrete", '
    '"temperature": 0.6666666666666666, "gamma": -0.1, "zeta": 1.1}, {"name": "rnn.weight", '
    '"shape": [2], "dtype": "float32", "kind": "HardKuma", "concentration": 0.5, '
    '"low": -0.1, "high": 1.1}, {"name": "wide", "shape": [1], "dtype": "float64", '
    '"kind": "GaussianGate", "sigma": 0.5}, {"name": "units", "shape": [4], '
    '"dtype": "float32", "kind": "HardConcrete", "temperature": 0.5, "gamma": -0.1, '
    '"zeta": 1.1}, {"name": "heads", "shape": [2], "dtype": "float32", '
    '"kind": "BernoulliGate"}], "parameters": [{"path": "fc1.weight", "shape": [4, 3], '
    '"dtype": "float32", "bindings": [{"gate": "fc1.weight:element()", "multiplies": true, '
    '"rule": "element"}, {"gate": "fc1.weight:axis(dim=-1, start=1, stop=3)", '
    '"multiplies": true, "rule": "axis", "dim": -1, "start": 1, "stop": 3}, '
    '{"gate": "units", "multiplies": false, "rule": "axis", "dim": 0, "start": 0, '
    '"stop": null}]}, {"path": "fc1.bias", "shape": [4], "dtype": "float32", '
    '"bindings": [{"gate": "units", "multiplies": false, "rule": "axis", "dim": 0, '
    '"start": 0, "stop": null}]}, {"path": "fc2.weight", "shape": [2, 4], '
    '"dtype": "float32", "bindings": [{"gate": "units", "multiplies": true, "rule": "axis", '
    '"dim": 1, "start": 0, "stop": null}]}, {"path": "conv.weight", "shape": [4, 2, 3, 3], '
    '"dtype": "float32", "bindings": [{"gate": "conv.weight", "multiplies": true, '
    '"rule": "axes", "dims": [0, 1]}]}, {"path": "head.weight", "shape": [8, 4], '
    '"dtype": "float32", "bindings": [{"gate": "heads", "multiplies": true, '
    '"rule": "blocks", "dim": 1, "size": 2, "start": 0, "stop": 4, "sharers": 1}]}, '
    '{"path": "value.weight", "shape": [4, 2], "dtype": "float32", '
    '"bindings": [{"gate": "heads", "multiplies": false, "rule": "blocks", "dim": 0, '
    '"size": 4, "start": 0, "stop": null, "sharers": 2}]}, {"path": "rnn.weight", '
    '"shape": [8, 2], "dtype": "float32", "bindings": [{"gate": "rnn.weight", '
    '"multiplies": true, "rule": "tiles", "dim": 0, "n": 4}]}, {"path": "free", '
    '"shape": [3], "dtype": "float32", "bindings": []}, {"path": "wide", "shape": [2, 2], '
    '"dtype": "float64", "bindings": [{"gate": "wide", "multiplies": true, '
    '"rule": "whole"}]}], "buffers": [{"path": "bn.running_mean", "shape": [4], '
    '"dtype": "float32", "bindings": [{"gate": "units", "multiplies": false, "rule": "axis", '
    '"dim": 0, "start": 0, "stop": null}]}], "attrs": [["units", "{\\"of\\": [\\"fc1\\"], '
    '\\"width\\": 4}"], ["heads", "{}"]]}'
)


def today() -> l0.GateSpec:
    """The spec behind the old text, built anew."""
    shapes = {
        "fc1.weight": (4, 3),
        "fc1.bias": (4,),
        "fc2.weight": (2, 4),
        "conv.weight": (4, 2, 3, 3),
        "head.weight": (8, 4),
        "value.weight": (4, 2),
        "rnn.weight": (8, 2),
        "free": (3,),
    }
    params = {path: torch.ones(shape) for path, shape in shapes.items()}
    params["wide"] = torch.ones(2, 2, dtype=torch.float64)
    buffers = {"bn.running_mean": torch.ones(4), "bn.steps": torch.ones((), dtype=torch.int64)}
    rules = {
        "free": None,
        "wide": l0.whole(),
        "conv.*": l0.axes(0, 1),
        "fc1.weight": [l0.element(), l0.axis(-1, 1, 3)],
        "rnn.*": l0.tiles(0, 4),
    }
    units = l0.group(
        {"fc2.weight": l0.axis(1)},
        owns={
            "fc1.weight": l0.axis(0),
            "fc1.bias": l0.axis(0),
            "bn.running_mean": l0.axis(0),
        },
        attrs={"width": 4, "of": ["fc1"]},
    )
    heads = l0.group(
        {"head.weight": l0.blocks(1, 2, stop=4)},
        owns={"value.weight": l0.blocks(0, 4, sharers=2)},
    )
    distribution = {
        "wide": l0.GaussianGate(),
        "rnn.*": l0.HardKuma(),
        "heads": l0.BernoulliGate(),
        "units": l0.HardConcrete(0.5),
        "*": l0.HardConcrete(),
    }
    groups = {"units": units, "heads": heads}
    return l0.gate_spec(params, rules, groups=groups, buffers=buffers, distribution=distribution)


def test_a_spec_is_written_as_it_always_was():
    assert today().to_json() == OLD


def test_an_old_text_loads_as_the_spec_that_wrote_it():
    assert l0.GateSpec.from_json(OLD) == today()
