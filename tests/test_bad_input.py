"""Every wrong input is named: the rule, what arrived, the nearest valid thing."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from settings import KEYS, setting
from torch import Tensor, nn
from zoo import BY_NAME

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
    (spec({"fc1.weight": l0.blocks(0, 2, sharers=2)}), "which only a group's owns can"),
    (spec({"fc1.weight": [l0.axis(0), l0.axis(0)]}), r"'fc1.weight' twice|twice by the same rule"),
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
            r"'fc1.weight' has <class .*element'>",
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
        (lambda: l0.gate_spec(nn.Linear(2, 2)), "leaves of params are tensors; '' is Linear"),
        (
            lambda: l0.init_params(random.key(0), PARAMS, {"*": 3}),
            "An initialiser is a name.*'fc1.weight' has 3",
        ),
        (
            lambda: l0.apply_masks(PARAMS, {"fc1.weight": 1.0}),
            "leaves of masks are tensors; 'fc1.weight' is float",
        ),
        (lambda: l0.per_example(l0.gated(None, SPEC), chunk_size=2.5), "integer"),
        (lambda: random.split(random.key(0), 2.0), "integer"),
    ],
)
def test_things_of_the_wrong_kind_are_named(call, match):
    with pytest.raises(TypeError, match=match):
        call()


def test_a_text_that_is_no_spec_is_named():
    for text in ("{}", "[1, 2]"):
        with pytest.raises(ValueError, match=r"A spec is what GateSpec.to_json wrote"):
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
        r"shape \(4, 3\); their initialiser gave \(2,\)",
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
    (lambda: l0.mean_masks({}, SPEC), "gates lacks 'fc1.bias'"),
    (
        lambda: l0.expected_l0({**GATES, "fc3.weight": torch.ones(1)}, SPEC),
        "gates has no 'fc3.weight'; the closest is",
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
        lambda: l0.expected_l2({**PARAMS, "fc1.bias": torch.ones(5)}, GATES, SPEC),
        r"'fc1.bias' of shape \(4,\); got \(5,\)",
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


# Rows.


def rows(case: str, *inputs: Any, keys: Any = KEYS, **named: Any) -> Any:
    s = setting(BY_NAME[case])
    return l0.per_example(s.apply, **named)(
        s.params, s.gates, s.buffers, keys, *(inputs or s.inputs)
    )


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: rows("mlp", torch.ones(4, 4)),
            r"number of keys is the number of rows; got 5 keys for 4 rows.*split\(key, B\)",
        ),
        (
            lambda: rows("mlp", keys=random.key(0)),
            r"a key for every row, shape \(B, 2\); got \(2,\)",
        ),
        (lambda: rows("mlp", keys=KEYS[:0]), "at least one row"),
        (
            lambda: rows("bilinear", torch.ones(5, 3), torch.ones(4, 2)),
            r"same number of rows; got \(5, 3\) along 0, \(4, 2\) along 0",
        ),
        (lambda: rows("bilinear", in_dims=(0,)), "in_dims has 1 entries for 2 inputs"),
        (
            lambda: rows("mlp", in_dims=2),
            r"in_dims names dimension 2 of a tensor of shape \(5, 4\)",
        ),
        (
            lambda: rows("two_inputs", in_dims=(0, (0, 0, 0))),
            "does not fit the 2 parts of a tuple",
        ),
        (
            lambda: rows("mlp", out_dims=1),
            r"one row along its out_dims; got size 3 along dimension 1 of \(1, 3\)",
        ),
        (lambda: rows("mlp", out_dims=None), "differs from row to row"),
        (lambda: rows("mlp", chunk_size=0), "at least 1; got 0"),
        (
            lambda: rows("cnn_train", chunk_size=2),
            "normalises by the whole batch, and chunk_size splits it",
        ),
        (
            lambda: rows("cnn_train", torch.ones(1, 1, 3, 3), keys=KEYS[:1]),
            r"more than one value a channel",
        ),
    ],
)
def test_rows_that_do_not_fit_are_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_inputs_that_vmap_would_pass_by_are_refused():
    class Batch:
        x = torch.ones(5, 4)

    with pytest.raises(TypeError, match="pytrees of tensors and constants; got Batch"):
        rows("mlp", Batch())


def test_a_packed_sequence_over_rows_is_refused_by_name():
    class Packs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(
                nn.utils.rnn.pack_padded_sequence(x, torch.tensor([2]), batch_first=True)
            )[0].data

    fn, params, buffers = l0.make_functional(Packs())
    plan = l0.gate_spec(params)
    apply = l0.gated(fn, plan)
    gates = l0.init_gates(random.key(0), plan)
    assert apply(params, gates, buffers, KEYS[0], torch.ones(1, 3, 3)).shape == (2, 4)
    with pytest.raises(ValueError, match="A packed sequence holds many rows"):
        l0.per_example(apply)(params, gates, buffers, KEYS, torch.ones(5, 3, 3))


def test_statistics_of_instances_over_rows_are_refused_by_name():
    module = nn.Sequential(nn.Conv1d(2, 3, 1), nn.InstanceNorm1d(3, track_running_stats=True))
    fn, params, buffers = l0.make_functional(module)
    plan = l0.gate_spec(params)
    with pytest.raises(ValueError, match="InstanceNorm with track_running_stats in training mode"):
        l0.per_example(l0.gated(fn, plan))(
            params, l0.init_gates(random.key(0), plan), buffers, KEYS, torch.ones(5, 2, 4)
        )


def test_a_gradient_inside_a_row_through_batch_statistics_is_refused():
    s = setting(BY_NAME["cnn_train"])

    def slope(params: Any, gates: Any, buffers: Any, key: Tensor, x: Tensor) -> Tensor:
        return torch.func.grad(lambda x: s.apply(params, gates, buffers, key, x).sum())(x)

    with pytest.raises(ValueError, match="a gradient of one row alone is not defined"):
        l0.per_example(slope)(s.params, s.gates, s.buffers, KEYS, *s.inputs)


@pytest.mark.parametrize("rule", [l0.axis(0), l0.element(), l0.axes(0, 1)], ids=str)
def test_gates_on_another_device_than_their_parameter_are_named(rule):
    params = {"w": torch.randn(4, 3)}
    spec = l0.gate_spec(params, {"w": rule})
    gates = l0.init_gates(random.key(0), spec)
    elsewhere = {"w": params["w"].to("meta")}
    apply = l0.gated(lambda p, b, x: torch.nn.functional.linear(x, p["w"]), spec)
    keys, x = random.split(random.key(1), 5), torch.randn(5, 3)
    with pytest.raises(
        ValueError,
        match=r"The parameter 'w' is on meta and its gates are on cpu. Move both to one device",
    ):
        apply(elsewhere, gates, {}, keys[0], x)
    with pytest.raises(ValueError, match=r"The parameter 'w' is on meta and its gates are on cpu"):
        l0.per_example(apply)(elsewhere, gates, {}, keys, x)


@pytest.mark.parametrize("rule", [l0.axis(0), l0.element()], ids=str)
def test_a_gated_parameter_that_outlives_its_call_is_of_no_use(rule):
    params, kept = {"w": torch.randn(4, 3)}, []
    spec = l0.gate_spec(params, {"w": rule})

    def fn(p, buffers, x):
        kept.append(p["w"])
        return torch.nn.functional.linear(x, p["w"])

    rows = l0.per_example(l0.gated(fn, spec))
    rows(
        params,
        l0.init_gates(random.key(0), spec),
        {},
        random.split(random.key(1), 5),
        torch.randn(5, 3),
    )
    for use in (
        lambda w: w + 1,
        lambda w: torch.nn.functional.linear(torch.ones(1, 3), w),
        repr,
        torch.Tensor.tolist,
    ):
        with pytest.raises(RuntimeError, match="escaped from inside a function being vmapped"):
            use(kept[0])


FORK = """
import os, sys, threading, torch, l0func as l0

torch.set_num_threads(1)
params = {"w": torch.randn(40, 30)}
spec = l0.gate_spec(params)
gates = l0.init_gates(l0.random.key(0), spec)
rows = l0.per_example(l0.gated(lambda p, b, x: torch.nn.functional.linear(x, p["w"]), spec))
keys, x = l0.random.split(l0.random.key(1), 64), torch.randn(64, 30)
results = []
threads = [threading.Thread(target=lambda: results.append(rows(params, gates, {}, keys, x))) for _ in range(4)]
[t.start() for t in threads], [t.join() for t in threads]
assert all(torch.equal(results[0], other) for other in results)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(rows(params, gates, {}, keys, x), results[0]) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process forks where its system can")
def test_threads_and_a_process_forked_after_them_draw_the_same():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
