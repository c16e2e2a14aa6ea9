"""Written slopes of draws and moments, against those that torch records, on both roads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from sampled import one_in, sampled
from test_distributions import CASES
from torch import Tensor

import l0func as l0
from l0func.distributions import GateDistribution

# Their quadratures have many nodes: to derive through all of them takes a minute each.
COSTLY = (
    l0.HardConcrete(5.0),
    l0.HardConcrete(2 / 3, -0.001, 1.001),
    l0.HardKuma(),
    l0.HardKuma(1.0, -0.2, 1.05),
)
some = pytest.mark.parametrize(
    "d", sampled(sorted(CASES, key=lambda d: d in COSTLY), one_in(4)), ids=repr
)
LA = torch.linspace(-3, 3, 13, dtype=torch.float64)
U = torch.linspace(0.05, 0.95, 13, dtype=torch.float64)
Function = Callable[[Tensor], Tensor]


def backward(f: Function) -> Function:
    return torch.func.grad(lambda a: f(a).sum())


def forward(f: Function) -> Function:
    return lambda a: torch.func.jvp(f, (a,), (torch.ones_like(a),))[1]


def derivatives(f: Function) -> list[Tensor]:
    """The function, and its derivatives up to the fourth, in both modes."""
    twice = backward(backward(f))
    third = forward(twice)
    functions = [f, backward(f), twice, third, forward(third), forward(f), forward(forward(f))]
    return [function(LA) for function in functions]


def together(mean: Tensor, variance: Tensor) -> Tensor:
    """Both at once: errors of the two do not cancel at 13 locations."""
    return mean + 0.7321 * variance


@some
def test_written_slopes_are_the_recorded_ones_as_often_as_one_derives(d: GateDistribution):
    written: list[Function] = [
        lambda a: together(*d.mean_and_variance(a)),
        lambda a: d.quantile(U, a),
    ]
    recorded: list[Function] = [
        lambda a: together(*d._mean_and_variance(a)),
        lambda a: d._quantile(U, a),
    ]
    for ours, theirs in zip(written, recorded, strict=True):
        expected = derivatives(theirs)
        for road in ("eager", "auto"):
            l0.use_kernel(road)
            torch.testing.assert_close(derivatives(ours), expected, rtol=1e-8, atol=1e-9)
