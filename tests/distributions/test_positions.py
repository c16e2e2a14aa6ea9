"""A gate's bits are the same at every position in a tensor, for every function and backend."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from device import DEVICE, seeded_generator
from torch import Tensor

import l0func as l0
from l0func.distributions.elementwise import logistic


@dataclass(frozen=True)
class LogisticGate(l0.CustomGate):
    """A clipped logistic variable, by functions that depend on the position."""

    scale: float = 0.3

    def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        return 0.5 + log_alpha + self.scale * torch.logit(u)

    def survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return torch.sigmoid((0.5 + log_alpha - t) / self.scale)


DISTRIBUTIONS = [
    l0.HardConcrete(),
    l0.HardConcrete(0.5),
    l0.HardConcrete(0.01, -1e-3, 1.001),
    l0.GaussianGate(),
    l0.HardKuma(),
    l0.BernoulliGate(),
    LogisticGate(),
]
SLICES = [(1, None), (3, 17), (7, 8), (5, -3), (-9, None), (16, 29)]


@pytest.fixture(params=["eager", "auto"])
def backend(request: pytest.FixtureRequest) -> Iterator[None]:
    l0.use_kernel(request.param)
    yield
    l0.use_kernel("auto")


def functions_of(distribution: l0.GateDistribution) -> dict[str, Callable[[Tensor], Tensor]]:
    return {
        "prob_nonzero": distribution.prob_nonzero,
        "prob_one": distribution.prob_one,
        "mean": distribution.mean,
        "variance": distribution.variance,
        "louizos": lambda la: distribution.deterministic(la, "louizos"),
        "median": lambda la: distribution.deterministic(la, "median"),
    }


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("size", [1003])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
def test_a_part_of_a_vector_has_the_bits_that_the_whole_has_there(distribution, dtype, size):
    generator = seeded_generator(0)
    log_alpha = (3 * torch.randn(size, generator=generator, dtype=torch.float64)).to(dtype)
    key = l0.random.key(3)
    for name, function in functions_of(distribution).items():
        whole = function(log_alpha)
        for first, last in SLICES:
            assert torch.equal(function(log_alpha[first:last].clone()), whole[first:last]), name
    drawn, u = distribution.sample(key, log_alpha), l0.random.uniform(key, size)
    if DEVICE == "cuda":
        # There a kernel draws, and torch computes the quantile.
        torch.testing.assert_close(drawn, distribution.quantile(u, log_alpha))
    else:
        assert torch.equal(drawn, distribution.quantile(u, log_alpha))
    for first, last in SLICES:
        start = first % size
        part = distribution.draws(key, log_alpha[first:last].clone(), start)
        assert torch.equal(part, drawn[first:last])


SEEN: list[int] = []


@dataclass(frozen=True)
class WatchedGate(LogisticGate):
    """Notes how many gates its draws are asked for at a time."""

    def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        SEEN.append(log_alpha.numel())
        assert u.shape == log_alpha.shape
        return super().draw(u, log_alpha)


@pytest.mark.on_cpu
@pytest.mark.parametrize("size", [1, 1 << 14, (1 << 14) + 64, 1 << 17, 100_003])
def test_a_users_draw_gets_whole_vectors_and_a_few_of_them_at_a_time(size):
    gate, log_alpha = WatchedGate(), torch.linspace(-3, 3, size)
    SEEN.clear()
    drawn = gate.quantile(torch.full((size,), 0.3), log_alpha)
    # So few run on one thread; on several, torch would end a vector in the middle.
    assert max(SEEN) <= 1 << 14
    assert all(count % 64 == 0 for count in SEEN)
    torch.testing.assert_close(drawn, (0.5 + log_alpha + 0.3 * math.log(3 / 7)).clamp(0, 1))


def test_the_logistic_function_has_its_derivatives_under_every_transform():
    x = torch.linspace(-3, 3, 12).reshape(3, 4)
    s = torch.sigmoid(x)
    slope = s * (1 - s)
    mapped = torch.func.grad(lambda la: torch.vmap(logistic)(la).sum())
    torch.testing.assert_close(mapped(x), slope)
    by_entry = torch.vmap(torch.vmap(torch.func.grad(logistic)))
    torch.testing.assert_close(by_entry(x), slope)
    pushed = torch.func.jvp(logistic, (x,), (torch.ones_like(x),))[1]
    torch.testing.assert_close(pushed, slope)
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(logistic(leaf).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), leaf)
    torch.testing.assert_close(second, slope * (1 - 2 * s), atol=1e-6, rtol=1e-5)
