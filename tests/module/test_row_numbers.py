"""Global numbers of rows: right in every integer type and on every device, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from device import marked_on_cpu
from torch import nn

import l0func as l0

X = torch.ones(4, 3)
NUMBERS = [5, 5, 120, 0]


def _net(**settings: Any) -> l0.L0Module:
    torch.manual_seed(0)
    chosen: dict[str, Any] = {"seed": 3, "per_example": True, **settings}
    return l0.L0Module(nn.Linear(3, 4), 0.0, **chosen)


def _by_hand(net: l0.L0Module, numbers: list[int]) -> torch.Tensor:
    """The first draw's output, row by row from keys of the whole batch."""
    fn, params, _ = l0.make_functional(nn.Linear(3, 4))
    params = {path: net.weights()[path].detach() for path in params}
    keys = l0.random.split(net.key_of(1), max(numbers) + 1)
    apply = l0.gated(fn, net.spec)
    rows = [apply(params, net.gates(), {}, keys[n], X[i : i + 1]) for i, n in enumerate(numbers)]
    return torch.cat(rows)


INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_numbers_of_every_integer_type_give_the_rows_of_the_whole_batch(dtype):
    net = _net()
    output = net(X, rows=torch.tensor(NUMBERS, dtype=dtype))
    torch.testing.assert_close(output, _by_hand(_net(), NUMBERS))
    assert torch.equal(output[0], output[1])


def test_equal_numbers_have_equal_masks_and_each_its_own_slopes():
    net, x = _net(), torch.tensor([[1.0, 2.0, 3.0]] * 4, requires_grad=True)
    net(x, rows=torch.tensor([7, 7, 7, 8])).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad[0], x.grad[1])
    assert torch.equal(x.grad[0], x.grad[2])
    assert not torch.equal(x.grad[0], x.grad[3])


@pytest.mark.parametrize("view", ["strided", "transposed", "expanded"])
def test_views_count_by_their_values(view):
    numbers = torch.tensor([[3, 9], [1, 9], [4, 9], [1, 9]])
    rows = {
        "strided": numbers[:, 0],
        "transposed": numbers.mT[0],
        "expanded": torch.tensor([6]).expand(4),
    }[view]
    assert torch.equal(_net()(X, rows=rows), _net()(X, rows=rows.clone()))


OF_KEYS = ["float", "bool", "negative", "a column", "another device", "sparse"]
UNSEEN = {"negative", "all negative"}
"""Refused where the numbers are known: to read them on a card would wait for it."""
REFUSED: dict[str, tuple[Any, str]] = {
    "float": (
        torch.tensor([0.0, 1.0, 2.0, 3.0]),
        r"an int64 tensor .*got a tensor of torch\.float32",
    ),
    "half": (torch.ones(4, dtype=torch.float16), r"got a tensor of torch\.float16"),
    "bool": (torch.tensor([True, False, True, True]), r"got a tensor of torch\.bool"),
    "complex": (torch.ones(4, dtype=torch.complex64), r"got a tensor of torch\.complex64"),
    "negative": (torch.tensor([0, 1, -2, 3]), r"numbered from 0; got -2"),
    "all negative": (torch.tensor([-1, -1, -5, -1], dtype=torch.int8), r"got -5"),
    "short": (torch.arange(3), r"shape \(4,\); got \(3,\)"),
    "long": (torch.arange(5), r"shape \(4,\); got \(5,\)"),
    "none": (torch.arange(0), r"shape \(4,\); got \(0,\)"),
    "one number": (torch.tensor(2), r"shape \(4,\); got \(\)"),
    "a column": (torch.arange(4)[:, None], r"shape \(4,\); got \(4, 1\)"),
    "another device": (
        torch.zeros(4, dtype=torch.int64, device="meta"),
        r"rows is on the meta de",
    ),
    "sparse": (torch.arange(4).to_sparse(), r"got torch\.sparse_coo\. Pass rows\.to_dense"),
    "list": ([0, 1, 2, 3], r"an int64 tensor of shape \(B,\); got \[0, 1, 2, 3\]"),
    "range": (range(4), r"an int64 tensor of shape \(B,\); got range\(0, 4\)"),
}


@pytest.mark.parametrize("kind", marked_on_cpu(REFUSED, UNSEEN))
@pytest.mark.parametrize("training", [True, False])
def test_other_rows_are_refused_and_leave_no_trace(kind, training):
    rows, words = REFUSED[kind]
    net = _net().train(training)
    with pytest.raises((TypeError, ValueError), match=words):
        net(X, rows=rows)
    assert net.draws == 0
    net.train()
    assert torch.equal(net(X), _net()(X))


@pytest.mark.parametrize("kind", marked_on_cpu(OF_KEYS, {"negative"}))
def test_keys_of_rows_refuse_the_same(kind):
    words = "shape" if kind == "a column" else REFUSED[kind][1]
    with pytest.raises((TypeError, ValueError), match=words):
        l0.random.row_keys(l0.random.key(0), REFUSED[kind][0])
