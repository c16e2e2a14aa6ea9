"""The costs of a call around its kernels: draws for whole batches, no tensors of zeros."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import l0func as l0
from l0func.distributions import HardConcrete

ROWS, IN, OUT = 5, 4, 3


class Noted(TorchDispatchMode):
    """A context that notes the names of ATen operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name().partition(".")[0])
        return func(*args, **(kwargs or {}))


def output_of(rule: l0.Rule, **settings: Any) -> Tensor:
    """A gated layer's output, with a graph."""
    fn, params, buffers = l0.make_functional(nn.Linear(IN, OUT))
    spec = l0.gate_spec(params, {"weight": rule, "*": None})
    gates = l0.init_gates(l0.random.key(0), spec)
    for t in (*params.values(), *gates.values()):
        t.requires_grad_()
    rows = l0.per_example(l0.gated(fn, spec, **settings))
    keys = l0.random.split(l0.random.key(1), ROWS)
    return rows(params, gates, buffers, keys, torch.randn(ROWS, IN))


@pytest.mark.parametrize("rule", [l0.axis(0), l0.axis(1)], ids=str)
def test_the_backward_pass_of_scaled_rows_makes_no_tensor_of_zeros(rule):
    output = output_of(rule)
    with Noted() as noted:
        output.backward(torch.ones_like(output))
    assert "aten::mm" in noted.names
    assert not {"aten::zeros", "aten::new_zeros", "aten::select_backward"} & set(noted.names)


@pytest.mark.parametrize("rule", [l0.axis(0), l0.axis(1)], ids=str)
def test_a_distribution_sees_the_draws_of_all_rows_at_once(rule, monkeypatch):
    quantile, seen = HardConcrete.quantile, list[tuple[int, ...]]()

    def noting(self: HardConcrete, u: Tensor, log_alpha: Tensor) -> Tensor:
        seen.append(tuple(u.shape))
        return quantile(self, u, log_alpha)

    monkeypatch.setattr(HardConcrete, "quantile", noting)
    # A kernel draws without uniforms to look at.
    l0.use_kernel("eager")
    output_of(rule)
    assert seen == [(ROWS, *rule.gates((OUT, IN)))]


def test_local_reparameterisation_draws_the_noise_of_all_rows_at_once(monkeypatch):
    normal, seen = l0.random.normal, list[tuple[int, ...]]()

    def noting(key: Tensor, shape: Any = ()) -> Tensor:
        seen.append(tuple(key.shape))
        return normal(key, shape)

    monkeypatch.setattr(l0.random, "normal", noting)
    output_of(l0.element(), sampling="local_reparam")
    assert seen[-1] == (ROWS, 2)
