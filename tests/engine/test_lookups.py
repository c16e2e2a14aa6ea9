"""Lookups in a gated table: each row has its own gates, and no other gates are drawn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import l0func as l0
from l0func import random

KEYS = random.split(random.key(5), 3)


@pytest.mark.parametrize("size", [1, 3, 4, 8])
@pytest.mark.parametrize("start", [0, 1, 2, 3, 4, 5])
def test_a_row_of_a_part_has_the_gates_that_the_whole_parameter_has_there(start: int, size: int):
    torch.manual_seed(0)
    params = {"w": torch.randn(start + 3 * size, 1)}
    spec = l0.gate_spec(params)
    gates = l0.init_gates(random.key(1), spec, droprate=0.3, noise=1.0)
    words = torch.tensor([[2, 0, 1, 1], [0, 0, 2, 1], [1, 2, 0, 2]])

    def fn(p: Any, buffers: Any, x: Tensor) -> Tensor:
        return F.embedding(x, p["w"][start:].reshape(3, size))

    apply = l0.gated(fn, spec)
    found = torch.vmap(lambda key, row: apply(params, gates, {}, key, row))(KEYS, words)
    for i, key in enumerate(KEYS):
        masked = l0.apply_masks(params, l0.sample_masks(key, gates, spec))
        torch.testing.assert_close(found[i], fn(masked, {}, words[i]))


@pytest.mark.skipif(
    not hasattr(torch.compiler, "is_compiling"),
    reason="torch 2.1 gives this mode a number in a tensor's place",
)
@pytest.mark.parametrize("start", [0, 1, 3])
def test_rows_that_fill_whole_calls_of_the_generator_draw_no_more_gates_than_they_have(start: int):
    sizes: list[int] = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                sizes.append(out.numel())
            return out

    params = {"w": torch.randn(5, 8)}
    spec = l0.gate_spec(params)
    gates = l0.init_gates(random.key(1), spec)
    apply = l0.gated(lambda p, buffers, x: F.embedding(x, p["w"][start:]), spec)
    words = torch.ones(3, 50, dtype=torch.int64)
    with Sizes():
        found = torch.vmap(lambda key, row: apply(params, gates, {}, key, row))(KEYS, words)
    assert max(sizes) == found.numel() == 3 * 50 * 8
