"""Inputs and biases of another dtype than the weight: gated calls take what torch takes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from device import RELEASE
from operations import OPERATIONS, Operation
from torch import Tensor

import l0func as l0
from l0func import random

KEYS = random.split(random.key(5), 3)
RULES = {"entries": lambda rank: l0.element(), "rows": lambda rank: l0.axis(0)}
# torch.vmap writes the norms of torch out, and promotes there.
PRODUCTS = [operation for operation in OPERATIONS if "norm" not in operation.name]
OTHERS = [torch.float64, torch.bfloat16, torch.int64]


def result(call: Callable[[], Tensor]) -> Tensor | None:
    """What a call returns, or None if it refuses its arguments."""
    try:
        return call()
    except (RuntimeError, ValueError, TypeError):
        return None


def agrees(ours: Tensor | None, theirs: Tensor | None) -> bool:
    """Whether both refused, or both returned the same dtype."""
    if ours is None or theirs is None:
        return ours is theirs
    return ours.dtype == theirs.dtype


def outcomes(operation: Operation, rule: Any, cast: Callable[[dict[str, Tensor], Tensor], Any]):
    """What a plain module, one mask for all rows, and a mask for each row make of a call."""
    torch.manual_seed(0)
    params = {"w": torch.randn(operation.weight), "b": torch.randn(operation.bias)}
    x = torch.randn(3, *operation.row)
    params, x = cast(params, x)
    spec = l0.gate_spec(params, {"w": rule(len(operation.weight)), "b": None})
    gates = l0.init_gates(random.key(1), spec, droprate=0.3, noise=1.0)
    apply = l0.gated(lambda p, buffers, x: operation.run(p, x[0])[None], spec)
    rows = l0.per_example(apply)
    return (
        result(lambda: operation.run(params, x[0])),
        result(lambda: apply(params, gates, {}, KEYS[0], x[:1])),
        result(lambda: rows(params, gates, {}, KEYS, x)),
    )


@pytest.mark.parametrize("operation", PRODUCTS, ids=str)
def test_an_input_of_another_dtype_is_taken_or_refused_as_by_torch(operation):
    for (name, rule), dtype in itertools.product(RULES.items(), OTHERS):
        plain, *ours = outcomes(operation, rule, lambda p, x, to=dtype: (p, x.to(to)))
        for way in ours:
            assert agrees(way, plain), (name, dtype, way, plain)


@pytest.mark.parametrize("operation", PRODUCTS, ids=str)
def test_a_bias_of_another_dtype_is_refused_where_torch_refuses_it(operation):
    for (name, rule), dtype in itertools.product(RULES.items(), OTHERS[:2]):
        plain, *ours = outcomes(
            operation, rule, lambda p, x, to=dtype: ({**p, "b": p["b"].to(to)}, x)
        )
        assert plain is not None or ours == [None, None], (name, dtype, ours)


NO_HALF = pytest.mark.skipif(
    RELEASE < (2, 2), reason="torch 2.1 multiplies no half precision on the CPU"
)


@pytest.mark.parametrize("dtype", [torch.float64, pytest.param(torch.float16, marks=NO_HALF)])
def test_a_module_refuses_an_input_in_training_that_it_refuses_in_eval(dtype):
    net = l0.L0Module(torch.nn.Linear(4, 3), lam=0.0, per_example=True, seed=0)
    for mode in (True, False):
        error = ValueError if mode else RuntimeError
        with pytest.raises(error, match=r"dtype|scalar type"):
            net.train(mode)(torch.ones(2, 4, dtype=dtype))
