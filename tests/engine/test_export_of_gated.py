"""torch.export takes a gated function for one mask, and refuses a mask for every row in words."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from device import RELEASE
from torch import Tensor, nn

import l0func as l0
from l0func import random

export: Any = getattr(getattr(torch, "export", None), "export", None)
pytestmark = pytest.mark.skipif(
    export is None or "strict" not in inspect.signature(export).parameters,
    reason="this torch exports only through its compiler's front end",
)


class Called(nn.Module):
    """A module around a function of a key and inputs."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, key: Tensor, x: Tensor) -> Tensor:
        return self.function(key, x)


def network(rule: Any) -> tuple[Any, Any, Any, Any]:
    torch.manual_seed(0)
    fn, params, buffers = l0.make_functional(nn.Linear(4, 3))
    spec = l0.gate_spec(params, {"weight": rule, "*": None})
    return l0.gated(fn, spec), params, l0.init_gates(random.key(0), spec), buffers


@pytest.mark.parametrize("rule", [l0.element(), l0.axis(0), l0.axis(1)], ids=str)
def test_a_mask_for_every_row_is_refused(rule):
    apply, params, gates, buffers = network(rule)
    rows = l0.per_example(apply)

    def call(key: Tensor, x: Tensor) -> Tensor:
        return rows(params, gates, buffers, random.split(key, 5), x)

    with pytest.raises(ValueError, match=r"torch.export cannot trace l0func.per_example"):
        export(Called(call), (random.key(1), torch.ones(5, 4)), strict=False)


@pytest.mark.skipif(RELEASE < (2, 9), reason="torch 2.6 exports no module that a call makes")
@pytest.mark.parametrize("rule", [l0.element(), l0.axis(0)], ids=str)
def test_one_mask_exports_and_draws_from_the_program_s_key(rule):
    apply, params, gates, buffers = network(rule)

    def call(key: Tensor, x: Tensor) -> Tensor:
        return apply(params, gates, buffers, key, x)

    x = torch.randn(5, 4)
    program = export(Called(call), (random.key(1), x), strict=False).module()
    for seed in (1, 2):
        torch.testing.assert_close(program(random.key(seed), x), call(random.key(seed), x))


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Recurring(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x)[0]


@pytest.mark.skipif(RELEASE < (2, 9), reason="torch 2.6 exports no module that a call makes")
@pytest.mark.parametrize("module", [Attending, Recurring])
def test_one_mask_of_attention_and_of_a_recurrent_layer_exports(module):
    torch.manual_seed(0)
    fn, params, buffers = l0.make_functional(module())
    spec = l0.gate_spec(params, {"*weight*": l0.element(), "*": None})
    gates, apply = l0.init_gates(random.key(0), spec), l0.gated(fn, spec)

    def call(key: Tensor, x: Tensor) -> Tensor:
        return apply(params, gates, buffers, key, x)

    x = torch.randn(2, 3, 4)
    program = export(Called(call), (random.key(1), x), strict=False).module()
    torch.testing.assert_close(program(random.key(2), x), call(random.key(2), x))
