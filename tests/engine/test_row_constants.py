"""Constants that forward makes, and tensors apart from the graph, serve inside a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import l0func as l0

TORCH: Any = torch

CONSTANTS: dict[str, Callable[[Tensor], Tensor]] = {
    "the end of a slice": lambda x: x[:, : torch.tensor([3, 2]).max()].sum(1),
    "a size": lambda x: TORCH.reshape(x, (x.shape[0], torch.tensor(2), -1)).sum(1),
    "an index": lambda x: x[:, torch.tensor([2, 0])],
    "a mask": lambda x: x[:, torch.tensor([True, False, True, False])],
    "a fill value": lambda x: x * TORCH.full((4,), torch.tensor(2.0)),
    "a fill value by name": lambda x: x * TORCH.full(size=(4,), fill_value=torch.tensor(2.0)),
    "a fill value beside a tensor": lambda x: x * TORCH.full_like(x, torch.ones(())),
    "a new tensor's fill value": lambda x: x * TORCH.Tensor.new_full(x, (4,), torch.tensor(3.0)),
    "a Python number": lambda x: x.new_full((2,), 3.0) + x[:, :2],
    "numbers in a tensor of its type": lambda x: x.new_tensor([3.0, 1.0]) + x[:, :2],
    "numbers in a tensor of another type": lambda x: (
        x.new_tensor([[2, 1]], dtype=torch.int64, device=x.device) + x[:, :2]
    ),
    "integers as an index": lambda x: x[:, x.new_tensor([2, 0], dtype=torch.int64)],
    "an array in a tensor of its type": lambda x: x.new_tensor(np.ones((1, 4))) + x,
    "data apart from the graph": lambda x: x * x.data.sigmoid(),
    "data, written in place": lambda x: _halved(x) * 2,
    "a weightless activation": lambda x: nn.functional.rrelu(x),
    "an activation in place": lambda x: nn.functional.rrelu(x.clone(), inplace=True),
    "an unset input times zero": lambda x: torch.addmm(
        torch.full((1, 4), torch.nan), x, x.mT @ x, beta=0, alpha=0.5
    ),
    "an unset vector times zero": lambda x: torch.addmv(
        torch.full((1,), torch.nan), x, x[0], beta=0
    ),
    "an input times one": lambda x: torch.addmm(x, x, x.mT @ x),
    "an accumulator": lambda x: torch.tensor([0.0, 0.0]).add_(x[0, :2])[None],
}


def _halved(x: Tensor) -> Tensor:
    x.data.mul_(0.5)
    return x


class _Uses(nn.Module):
    def __init__(self, constant: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.constant = nn.Linear(3, 4), constant

    def forward(self, x: Tensor) -> Tensor:
        return self.constant(self.enter(x))


@pytest.mark.parametrize("constant", CONSTANTS.values(), ids=CONSTANTS.keys())
def test_a_constant_of_forward_serves_in_rows_as_in_a_plain_call(
    constant: Callable[[Tensor], Tensor],
) -> None:
    fn, params, buffers = l0.make_functional(_Uses(constant))
    spec = l0.gate_spec(params, {"*.weight": l0.element()})
    gates, keys = l0.init_gates(l0.random.key(0), spec), l0.random.split(l0.random.key(1), 3)
    x = l0.random.normal(l0.random.key(2), (3, 3))
    apply = l0.gated(fn, spec)
    rows = l0.per_example(apply)(params, gates, buffers, keys, x)
    plain = [apply(params, gates, buffers, key, x[i : i + 1]) for i, key in enumerate(keys)]
    torch.testing.assert_close(rows, torch.cat(plain))
