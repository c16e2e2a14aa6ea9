"""Every wrong input of a mapped row is named: the rule, what arrived, the nearest valid thing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from settings import KEYS, setting
from torch import Tensor, nn
from zoo import BY_NAME

import l0func as l0
from l0func import random


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
        (lambda: rows("mlp", keys=KEYS[:0]), "got 0 keys for 5 rows"),
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

    with pytest.raises(
        TypeError, match=r"inputs\[0\] is a Batch, which holds tensors in .x, .* None in in_dims"
    ):
        rows("mlp", Batch())


def test_a_packed_sequence_over_rows_is_refused_by_name():
    class Packs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(
                nn.utils.rnn.pack_padded_sequence(
                    x, torch.tensor([2], device="cpu"), batch_first=True
                )
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
        def total(x: Tensor) -> Tensor:
            return s.apply.with_buffers(params, gates, buffers, key, x)[0].sum()

        return torch.func.grad(total)(x)

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
    words = rf"The parameter 'w' is on meta and its gates are on {gates['w'].device}\. Move both"
    with pytest.raises(ValueError, match=words):
        apply(elsewhere, gates, {}, keys[0], x)
    with pytest.raises(ValueError, match=words):
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
