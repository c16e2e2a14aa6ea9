"""Memory and types between torch and machine code: whose memory a result is, and how it lies."""

from __future__ import annotations

import pytest
import torch
from contractions import operands

import l0func as l0
from l0func import random
from l0func.distributions.masked_moments import masked_moments
from l0func.kernels import by_torch
from l0func.kernels.backends import kernels_for
from l0func.kernels.contraction import Contraction, Output
from l0func.kernels.loading import load_kernels

by_numba = load_kernels("numba").kernels
with_numba = pytest.mark.skipif(by_numba is None, reason="this platform has no numba")

DISTRIBUTIONS = [l0.HardConcrete(), l0.GaussianGate(), l0.HardKuma(), l0.BernoulliGate()]
every = pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=repr)
RESULTS = {
    "sample": lambda d, la: d.sample(random.key(3), la),
    "quantile": lambda d, la: d.quantile(torch.full((7,), 0.4), la),
    "mean": lambda d, la: d.mean(la),
    "variance": lambda d, la: d.variance(la),
    "both moments": lambda d, la: d.mean_and_variance(la)[1],
    "prob_nonzero": lambda d, la: d.prob_nonzero(la),
    "prob_one": lambda d, la: d.prob_one(la),
    "median": lambda d, la: d.deterministic(la, "median"),
}


@pytest.fixture(params=["eager", "auto"])
def road(request):
    l0.use_kernel(request.param)
    yield request.param
    l0.use_kernel("auto")


@every
@pytest.mark.parametrize("name", RESULTS)
def test_a_result_may_be_changed_in_place_before_the_backward_pass(distribution, name, road):
    grads: list[torch.Tensor] = []
    for in_place in (False, True):
        la = torch.linspace(-2, 2, 7).requires_grad_()
        result = RESULTS[name](distribution, la)
        scaled = result.mul_(3.0) if in_place else result * 3.0
        grads.append(torch.autograd.grad(scaled.sum(), la)[0])
    torch.testing.assert_close(grads[1], grads[0], rtol=0, atol=0)


@with_numba
@pytest.mark.on_cpu
@pytest.mark.parametrize("vectors", [1, 3])
@pytest.mark.parametrize("repeat", [1, 2])
def test_factors_may_be_transposed(vectors, repeat):
    contraction = Contraction(l0.HardConcrete(), (6, 8), repeat)
    given = operands(contraction, 4, vectors)
    turned = [t.transpose(-1, -2).contiguous().transpose(-1, -2) for t in given]
    keys = random.split(random.key(2), 4)
    outputs = [Output(kind, order) for kind in ("y", "x", "a") for order in (0, 1)]
    ours = by_numba.contract(contraction, outputs, keys, given._make(turned))
    theirs = by_torch.contract(contraction, outputs, keys, given)
    for found, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, wanted)


@every
def test_a_default_device_leaves_the_gates_on_their_own(distribution, road):
    key, la, w = random.key(1), torch.zeros(5), torch.ones(5)
    u = torch.full((5,), 0.5)
    with torch.device("meta"):
        results = [
            distribution.sample(key, la),
            distribution.quantile(u, la),
            distribution.prob_nonzero(la),
            *distribution.mean_and_variance(la),
            *masked_moments(distribution, la, w),
        ]
    assert {result.device for result in results} == {la.device}


def test_zeros_without_memory_go_to_torch():
    # Forward mode makes them: a tangent that is zero everywhere.
    zeros = torch._efficientzerotensor((3,))
    assert kernels_for(zeros) is by_torch
    assert kernels_for(torch.ones(3), zeros) is by_torch


@pytest.mark.on_cpu
@with_numba
@every
def test_one_compilation_serves_all_sizes(distribution, monkeypatch):
    built = {}
    monkeypatch.setattr("l0func.kernels.by_numba.compiled._built", built)
    for rows, columns, batch in [(1, 1, 1), (3, 5, 2), (1, 200_000, 1), (300, 400, 1), (0, 4, 0)]:
        la, w = torch.zeros(rows, columns), torch.ones(rows, columns)
        keys = random.split(random.key(2), batch)
        u = torch.full((batch, 1, 1), 0.5)
        distribution.draws(keys, la)
        distribution.quantile(u, la)
        distribution.mean_and_variance(la)
        distribution.prob_nonzero(la)
        masked_moments(distribution, la, w.requires_grad_())[0].sum().backward()
        random.normal(keys, (rows, columns))
        random.fold_in(keys, torch.arange(batch))
        for vectors, repeat in ((1, 1), (2, 2)):
            contraction = Contraction(distribution, (rows, columns * repeat), repeat)
            given = operands(contraction, batch, vectors, torch.float32)
            for outputs in ("y", "xa"):
                wanted = [Output(kind, 0) for kind in outputs]
                by_numba.contract(contraction, wanted, keys, given)
    assert len(built) > 10
    assert {len(kernel.signatures) for kernel in built.values()} == {1}
