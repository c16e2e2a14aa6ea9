"""Every wrong input is named: the rule, what arrived, the nearest valid thing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from settings import KEYS
from torch import Tensor, nn

import l0func as l0
from l0func import random

PARAMS = {
    "fc1.weight": torch.ones(4, 3),
    "fc1.bias": torch.ones(4),
    "fc2.weight": torch.ones(2, 4),
}
SPEC = l0.gate_spec(PARAMS)
GATES = l0.init_gates(random.key(0), SPEC)


def spec(rules: Any = None, **named: Any) -> Any:
    return lambda: l0.gate_spec(PARAMS, rules, **named)


def grouped(multiplies: Any, owns: Any = None) -> Any:
    return lambda: l0.gate_spec(PARAMS, groups={"hidden": l0.group(multiplies, owns=owns)})


BAD_SPECS = [
    (
        spec({"fc3.*": l0.element()}),
        r"'fc3\.\*' matches no parameter; the closest is 'fc[12]\..*fnmatch-style",
    ),
    (
        spec({"fc1.weight": l0.axis(2)}),
        r"On 'fc1.weight': axis\(dim=2\) names dimension 2 .*\(4, 3\); its dimensions are -2 to 1",
    ),
    (
        spec({"fc1.weight": l0.axis(0, 3, 9)}),
        r"part \[start, stop\) of the 4 indices of dimension 0; got \[3, 9\)",
    ),
    (spec({"fc1.weight": l0.axes(0, -2)}), "must name different dimensions"),
    (spec({"fc1.weight": l0.blocks(0, 3)}), r"size that divides the 4 indices .* got 3"),
    (spec({"fc1.weight": l0.tiles(1, 2)}), "number of tiles that divides 3"),
    (spec({"fc1.weight": l0.blocks(0, 2, sharers=2)}), "owns of a group may have sharers"),
    (spec({"fc1.weight": [l0.axis(0), l0.axis(0)]}), r"'fc1.weight' twice|twice by the same rule"),
    (
        spec({"fc1.weight": [l0.axis(1), l0.axis(-1)]}),
        r"axis\(dim=1\) and axis\(dim=-1\) name the same slices of 'fc1.weight'.*Leave one rule",
    ),
    (spec({"fc1.weight": [l0.axis(0), l0.axis(0, 0, 4)]}), "name the same slices of 'fc1.weight'"),
    (spec({"fc1.weight": [l0.element(), l0.axes(0, 1)]}), "name the same slices of 'fc1.weight'"),
    (spec({"fc1.weight": [l0.blocks(1, 1), l0.axis(1)]}), "name the same slices of 'fc1.weight'"),
    (spec({"fc1.bias": [l0.tiles(0, 1), l0.element()]}), "name the same slices of 'fc1.bias'"),
    (
        lambda: l0.gate_spec({"scale": torch.tensor(1.0)}, {"scale": l0.axis(0)}),
        r"On 'scale': axis\(dim=0\) .* one number without dimensions; .*whole\(\) or element\(\)",
    ),
    (
        lambda: l0.gate_spec({"scale": torch.tensor(1.0)}, {"scale": l0.tiles(0, 1)}),
        r"one number without dimensions; its rule is whole\(\) or element\(\)",
    ),
    (
        grouped({"fc2.weight": l0.axis(1)}, {"fc1.weight": l0.axis(1)}),
        r"group 'hidden' have the same number of gates; .*\(4,\).*\(3,\)",
    ),
    (grouped({"fc2.weight": l0.axis(2)}), r"On 'fc2.weight': axis\(dim=2\) names dimension 2"),
    (
        grouped({"fc2.wieght": l0.axis(1)}),
        r"Group 'hidden' names 'fc2.wieght', which is not there; the closest is 'fc2.weight'",
    ),
    (
        grouped({"fc2.weight": l0.axis(1)}, {"bn.running_mean": l0.axis(0)}),
        "Buffers are seen only if gate_spec is given buffers",
    ),
    (grouped({}), "multiplies at least one parameter"),
    (grouped({"fc2.weight": l0.blocks(1, 4, sharers=2)}), "Name it in owns"),
    (
        spec(distribution={"fc1.*": l0.HardConcrete()}),
        r"No pattern gives a distribution to the gate 'fc2.weight'",
    ),
    (spec(distribution={"fc9.*": l0.HardConcrete()}), r"'fc9\.\*' matches no gate"),
    (
        spec({"*": l0.element()}, groups={"fc1.bias": l0.group({"fc2.weight": l0.axis(1)})}),
        "Two sets of gates have the name 'fc1.bias'",
    ),
    (lambda: l0.gate_spec({}), "params is empty"),
    (lambda: l0.gate_spec(l0.make_functional(nn.ReLU()).params), "params is empty"),
    (
        lambda: l0.gate_spec({"ids": torch.ones(3, dtype=torch.int64)}),
        r"'ids' is torch.int64. Exclude it: \{'ids': None\}",
    ),
    (
        lambda: l0.gate_spec({"a": {"b.c": torch.ones(1)}, "a.b": {"c": torch.ones(1)}}),
        "same dotted path, 'a.b.c'",
    ),
]


@pytest.mark.parametrize(("call", "match"), BAD_SPECS, ids=[str(i) for i in range(len(BAD_SPECS))])
def test_plans_that_make_no_sense_are_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: l0.gate_spec(PARAMS, {"fc1.weight": ["axis0"]}),
            r"A rule is element\(\), axis.*'fc1.weight' has 'axis0'",
        ),
        (lambda: l0.gate_spec(PARAMS, {"fc1.weight": "element"}), r"'fc1.weight' has 'element'"),
        (
            lambda: l0.gate_spec(PARAMS, {"fc1.weight": l0.element}),
            r"'fc1.weight' has the class element; call it",
        ),
        (lambda: l0.gate_spec(PARAMS, ["fc1.weight"]), r"rules are \{pattern: rule\}; got list"),
        (
            lambda: l0.gate_spec(PARAMS, groups={"h": {"fc2.weight": l0.axis(1)}}),
            "A group is made by l0func.group.*'h' has",
        ),
        (
            lambda: l0.gate_spec(PARAMS, distribution=l0.HardConcrete),
            "A distribution is an instance.*<class",
        ),
        (lambda: l0.gate_spec(nn.Linear(2, 2)), "params: expected .* of type Linear"),
        (
            lambda: l0.init_params(random.key(0), PARAMS, {"*": 3}),
            "An initialiser is a name.*'fc1.weight' has 3",
        ),
        (
            lambda: l0.apply_masks(PARAMS, {"fc1.weight": 1.0}),
            "leaves of masks are tensors; 'fc1.weight' is float",
        ),
        (lambda: l0.per_example(l0.gated(print, SPEC), chunk_size=2.5), "integer"),
        (lambda: random.split(random.key(0), 2.0), "integer"),
    ],
)
def test_things_of_the_wrong_kind_are_named(call, match):
    with pytest.raises(TypeError, match=match):
        call()


def test_a_text_that_is_no_spec_is_named():
    for text in ("{}", "[1, 2]"):
        with pytest.raises(ValueError, match=r"A spec.s text comes from GateSpec.to_json"):
            l0.GateSpec.from_json(text)


CHANGED = {**GATES, "fc1.weight": torch.zeros(5, 3)}
BAD_GATES = [
    (
        lambda: l0.init_gates(random.key(0), SPEC, droprate=1.0),
        "strictly between 0 and 1; got 1.0",
    ),
    (
        lambda: l0.init_gates(random.key(0), SPEC, droprate=-0.1),
        "strictly between 0 and 1; got -0.1",
    ),
    (
        lambda: l0.init_gates(random.key(0), SPEC, droprate={"fc1*": 0.2}),
        "No pattern gives a droprate to the gate 'fc2.weight'",
    ),
    (
        lambda: l0.init_gates(random.key(0), SPEC, droprate={"conv*": 0.2}),
        r"'conv\*' matches no gate",
    ),
    (
        lambda: l0.init_gates(random.key(0), SPEC, droprate=lambda k, s: torch.ones(2)),
        r"shape \(4, 3\); their sampler gave \(2,\)",
    ),
    (
        lambda: l0.init_gates(random.key(0), SPEC, noise=-1.0),
        "standard deviation, at least 0; got -1.0",
    ),
    (
        lambda: l0.init_gates(random.key(0), SPEC, meaning="open"),
        "'closed'.*'below_half'.*got 'open'",
    ),
    (
        lambda: l0.init_gates(random.split(random.key(0), 2), SPEC),
        r"One key has shape \(2,\); got \(2, 2\)",
    ),
    (
        lambda: l0.sample_masks(KEYS, GATES, SPEC),
        r"One key has shape \(2,\); got \(5, 2\).*per_example",
    ),
    (lambda: l0.sample_masks(random.key(0)[:1], GATES, SPEC), r"shape \(2,\).*got \(1,\)"),
    (
        lambda: l0.sample_masks(random.key(0), CHANGED, SPEC),
        r"shape \(4, 3\) for 'fc1.weight'; got \(5, 3\).*different architectures",
    ),
    (
        lambda: l0.mean_masks({}, SPEC),
        r"'fc1.bias' is in the spec's gates and not.*net\.spec for net\.gates",
    ),
    (
        lambda: l0.expected_l0({**GATES, "fc3.weight": torch.ones(1)}, SPEC),
        "'fc3.weight' is in the gates given and not .*; the closest is",
    ),
    (
        lambda: l0.expected_l0({**GATES, "fc1.bias": torch.ones(4, dtype=torch.int64)}, SPEC),
        "'fc1.bias' is torch.int64",
    ),
    (lambda: l0.deterministic_masks(GATES, SPEC, "meen"), r"got 'meen'; the closest is 'mean'"),
    (lambda: l0.gated(lambda p, b: None, SPEC, estimator="best"), "got 'best'"),
    (
        lambda: l0.apply_masks(PARAMS, {"fc1.wait": torch.ones(4, 1)}),
        r"'fc1.wait', which is no parameter; the closest is 'fc1.weight'",
    ),
    (
        lambda: l0.apply_masks(PARAMS, {"fc1.weight": torch.ones(3)}),
        r"mask of 'fc1.weight' has shape \(3,\), which does not fit \(4, 3\)",
    ),
    (
        lambda: l0.apply_masks(PARAMS, {"fc1.weight": torch.ones(2, 3)}),
        r"\(2, 3\), which does not fit \(4, 3\)",
    ),
    (
        lambda: l0.apply_masks(PARAMS, {"fc1.weight": torch.ones(0, 3)}),
        r"\(0, 3\), which does not fit \(4, 3\)",
    ),
    (
        lambda: l0.expected_l2({**PARAMS, "fc1.bias": torch.ones(5)}, GATES, SPEC),
        r"'fc1.bias' of shape \(4,\); got \(5,\)",
    ),
    (
        lambda: l0.expected_l2({**PARAMS, "bn.running_mean": torch.ones(5)}, GATES, SPEC),
        r"'bn.running_mean' is .*A state_dict\(\) holds parameters and buffers",
    ),
    (
        lambda: l0.penalty(PARAMS, GATES, SPEC, torch.ones(5)),
        r"broadcasts to its parameter; got \(5,\) for",
    ),
    (
        lambda: l0.penalty(PARAMS, GATES, SPEC, {"fc1*": 0.1}),
        "No pattern gives lam to the gated parameter 'fc2.weight'",
    ),
    (
        lambda: l0.penalty(PARAMS, GATES, SPEC, {"fc9*": 0.1, "*": 1.0}),
        r"'fc9\*' matches no gated parameter",
    ),
]


@pytest.mark.parametrize(("call", "match"), BAD_GATES, ids=[str(i) for i in range(len(BAD_GATES))])
def test_gates_masks_and_costs_that_do_not_fit_are_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_keys_of_the_wrong_type_are_named():
    for key in (torch.zeros(2), torch.zeros(2, dtype=torch.int32)):
        with pytest.raises(TypeError, match=r"int64 tensor of shape \(2,\)"):
            l0.sample_masks(key, GATES, SPEC)


@pytest.mark.parametrize(
    ("droprate", "estimator", "warned"),
    [
        (0.7, "louizos", True),
        (0.6, "louizos", False),
        (0.55, "median", True),
        (0.45, "median", False),
        (0.9, "mean", False),
    ],
)
def test_a_droprate_at_which_everything_starts_closed_is_warned_of(droprate, estimator, warned):
    def start() -> dict[str, Tensor]:
        return l0.init_gates(random.key(0), SPEC, droprate=droprate, estimator=estimator)

    if warned:
        with pytest.warns(
            UserWarning, match=rf"droprate {droprate} .* all start closed under the '{estimator}'"
        ):
            start()
    else:
        start()


@pytest.mark.parametrize("function", [l0.summary, l0.prune])
def test_nan_among_the_gates_is_counted_and_named(function):
    broken = {**GATES, "fc1.bias": torch.tensor([0.0, math.nan, 1.0, math.nan])}
    with pytest.raises(ValueError, match=r"2 of 4 gate locations of 'fc1.bias' are NaN"):
        function(PARAMS, broken, SPEC)


@pytest.mark.parametrize("flag", [True, False])
def test_a_flag_is_neither_a_seed_nor_a_number_to_fold_nor_a_droprate(flag):
    for call in (
        lambda: random.key(flag),
        lambda: random.fold_in(random.key(0), flag),
        lambda: l0.init_gates(random.key(0), SPEC, droprate=flag),
        lambda: l0.init_gates(random.key(0), SPEC, droprate={"*": flag}),
    ):
        with pytest.raises(TypeError, match=f"got {flag}"):
            call()


@pytest.mark.parametrize("measure", ["density", "l0"])
@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_no_entries_have_no_target_and_are_not_sparse(shape, measure):
    of_nothing = l0.gate_spec({"w": torch.zeros(shape)})
    assert l0.expected_sparsity({"w": torch.zeros(shape)}, of_nothing).item() == 0.0
    with pytest.raises(ValueError, match=r"match '\*' have no entries, .*'w' of shape"):
        l0.lagrangian(of_nothing, 0.5, measure=measure)
    both = l0.gate_spec({"w": torch.zeros(shape), "v": torch.ones(3)})
    l0.lagrangian(both, 0.5)
    with pytest.raises(ValueError, match="match 'w' have no entries"):
        l0.lagrangian(both, {"w": 0.5})


def test_a_function_that_takes_no_gates_is_not_mapped_over_rows():
    fn = l0.make_functional(nn.Linear(3, 2)).fn

    def pure(params: Any, buffers: Any, x: Tensor) -> Tensor:
        return fn(params, buffers, x)

    for apply in (pure, lambda x: x, lambda params, gates, *, key: key):
        with pytest.raises(TypeError, match=r"per_example maps a gated function.*l0func.gated"):
            l0.per_example(apply)
    for apply in (lambda *args: args, lambda p, g, b, k, x: x, lambda p, g, b, k, x, y=1: x):
        l0.per_example(apply)


@pytest.mark.parametrize("gate_dims", [0, -1, 1, 2])
def test_gates_that_all_rows_share_have_no_dimension_of_rows(gate_dims):
    fn, params, buffers = l0.make_functional(nn.Linear(3, 2))
    of_linear = l0.gate_spec(params)
    rows = l0.per_example(l0.gated(fn, of_linear), gate_dims=gate_dims)
    keys, gates = random.split(random.key(0), 5), l0.init_gates(random.key(0), of_linear)
    with pytest.raises(ValueError, match=rf"gate_dims={gate_dims} says .* 5 rows .*have shape"):
        rows(params, gates, buffers, keys, torch.ones(5, 3))
