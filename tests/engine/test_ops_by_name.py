"""Every name of an operation on a gated parameter computes what the masked parameter does."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from device import marked_on_cpu
from operations_by_name import BY_NAME
from torch import Tensor

import l0func as l0
from l0func.engine.ops import HANDLERS

RULES = {
    "entries": l0.element(),
    "rows": l0.axis(0),
    "columns": l0.axis(1),
    "both": [l0.axis(0), l0.element()],
}
OF_CUDNN = {f"torch: {name}" for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")}
"""On a card torch's own take no slices of weights, and no tensors of torch.func.grad."""
KEYS = l0.random.split(l0.random.key(5), 3)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", marked_on_cpu(BY_NAME, OF_CUDNN))
def test_values_and_slopes_are_those_of_the_masked_parameter(name: str, rule: str):
    torch.manual_seed(0)
    params = {"w": torch.randn(4, 6, dtype=torch.float64)}
    spec = l0.gate_spec(params, {"w": RULES[rule]})
    gates = l0.init_gates(l0.random.key(1), spec, droprate=0.3, noise=1.0)
    x = torch.randn(3, 2, 6, dtype=torch.float64)
    apply = l0.gated(lambda p, buffers, x: BY_NAME[name](p["w"], x), spec)

    def gated(params: Any, gates: Any) -> Tensor:
        return torch.vmap(lambda key, row: apply(params, gates, {}, key, row))(KEYS, x)

    def masked(params: Any, gates: Any) -> Tensor:
        rows: list[Tensor] = []
        for key, row in zip(KEYS, x, strict=True):
            weights = l0.apply_masks(params, l0.sample_masks(key, gates, spec))
            rows.append(BY_NAME[name](weights["w"], row))
        return torch.stack(rows)

    torch.testing.assert_close(gated(params, gates), masked(params, gates))
    for argument in (0, 1):
        ours, other = (
            torch.func.grad(lambda *a, f=f: f(*a).sin().sum(), argument)(params, gates)
            for f in (gated, masked)
        )
        for path, expected in other.items():
            torch.testing.assert_close(ours[path], expected)


@pytest.mark.parametrize("name", marked_on_cpu(BY_NAME, OF_CUDNN))
def test_a_case_calls_the_function_of_its_name(name: str):
    called: set[Any] = set()

    class Noted(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            called.add(func)
            return func(*args, **(kwargs or {}))

    with Noted():
        BY_NAME[name](torch.ones(4, 6), torch.ones(2, 6))
    place, _, function = name.partition(": ")
    places = {"Tensor": torch.Tensor, "F": torch.nn.functional, "torch": torch}
    wanted = getattr(places[place], function)
    # torch shows operators as the methods behind them; a compiler may show the operators.
    names = {"__matmul__": "matmul", "__mul__": "mul", "__rmul__": "mul"}
    shown = getattr(places[place], names.get(function, function))
    assert shown in called
    assert inspect.unwrap(HANDLERS[wanted]) is inspect.unwrap(HANDLERS[shown])
