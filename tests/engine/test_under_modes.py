"""A gated call under a mode that sees every operation of torch, such as a counter of FLOPs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import l0func as l0


class Unchanged(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(
    not hasattr(torch.compiler, "is_compiling"),
    reason="torch 2.1 gives this mode a number in a tensor's place",
)
@pytest.mark.parametrize("rule", [l0.element(), l0.axis(0)], ids=str)
def test_a_mode_that_changes_nothing_changes_no_output(rule):
    fn, params, _ = l0.make_functional(torch.nn.Linear(3, 2))
    spec = l0.gate_spec(params, {"*": rule})
    gates, apply = l0.init_gates(l0.random.key(0), spec), l0.gated(fn, spec)
    x, key = torch.randn(4, 3), l0.random.key(1)
    expected = apply(params, gates, {}, key, x)
    with Unchanged():
        found = apply(params, gates, {}, key, x)
    torch.testing.assert_close(found, expected)
    assert expected.any()
