"""Steady values: constants, for all inputs in all sizes, if the weights behind them are zero."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from traces import Between, traced

TOKENS = torch.ones(2, 3, 4)


def read_by_last(function: object) -> bool:
    trace = traced(Between(nn.Linear(4, 3), function, nn.Linear(3, 2)), TOKENS)
    first, last = trace.readers
    assert (first.path, first.steady) == ("first.weight", False)
    assert (last.path, last.bias) == ("last.weight", "last.bias")
    return last.steady


@pytest.mark.parametrize(
    "function",
    [
        torch.relu,
        torch.sigmoid,
        lambda h: h.mean(1),
        lambda h: h * h,
        lambda h: h.reshape(-1, 3),
    ],
)
def test_a_constant_of_constants_is_steady(function):
    assert read_by_last(function)


@pytest.mark.parametrize(
    "function",
    [
        lambda h: h.sum(1),
        lambda h: h / h.shape[1],
        lambda h: h * torch.ones(3, 1),
        lambda h: h.cumsum(1),
        lambda h: h.softmax(1),
    ],
)
def test_a_value_that_may_depend_on_the_input_or_its_size_is_not_steady(function):
    assert not read_by_last(function)


def _norm(h: torch.Tensor, is_training: bool) -> torch.Tensor:
    statistics = torch.zeros(3), torch.ones(3)
    flat = h.reshape(-1, 3)
    normed, *_ = torch.native_batch_norm(flat, None, None, *statistics, is_training, 0.1, 1e-5)
    return normed.reshape(h.shape)


@pytest.mark.parametrize("is_training", [False, True])
def test_a_norm_of_fixed_statistics_is_steady_and_one_of_the_batch_is_not(is_training):
    assert read_by_last(lambda h: _norm(h, is_training)) is not is_training
