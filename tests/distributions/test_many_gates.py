"""A hundred million gates: sums in float32, counts, draws, and counters beyond 32 bits."""

from __future__ import annotations

import pytest
import torch

import l0func as l0
from l0func.kernels import philox

pytestmark = pytest.mark.on_cpu
MANY = 10**8
PERIOD = 1000
D = l0.HardConcrete()


@pytest.fixture(scope="module")
def locations():
    """A thousand locations, many times over: their sums are known in float64."""
    return torch.linspace(-6, 6, PERIOD)


@pytest.fixture(scope="module")
def problem(locations):
    params = {"w": torch.full((MANY,), 0.5)}
    return params, {"w": locations.repeat(MANY // PERIOD)}, l0.gate_spec(params)


def over_all(of_one_period):
    return float(of_one_period.double().sum()) * (MANY // PERIOD)


@pytest.mark.slow
def test_costs_of_1e8_gates_in_float32_have_six_digits(problem, locations):
    params, gates, spec = problem
    exact = locations.double()
    opened = over_all(D.prob_nonzero(exact))
    squares = over_all(D.second_moment(exact)) / 4
    mean = over_all(D.mean(exact) ** 2) / 4
    assert float(l0.expected_l0(gates, spec)) == pytest.approx(opened, rel=1e-6)
    assert float(l0.expected_sparsity(gates, spec)) == pytest.approx(1 - opened / MANY, rel=1e-6)
    # Moments have four digits in float32.
    assert float(l0.expected_l2(params, gates, spec)) == pytest.approx(squares, rel=1e-5)
    assert float(l0.squared_mean(params, gates, spec)) == pytest.approx(mean, rel=1e-5)
    price = l0.penalty(params, gates, spec, 1e-7, weight_decay=1e-7)
    assert float(price) == pytest.approx(opened * 1e-7 * (1 + 0.5 / 4), rel=1e-6)


@pytest.mark.slow
def test_the_slope_of_a_penalty_reaches_each_of_1e8_gates(problem, locations):
    params, gates, spec = problem

    def price(gates):
        return l0.penalty(params, gates, spec, 2.0)

    slope = torch.func.grad(price)(gates)["w"]
    own = torch.func.grad(lambda la: D.prob_nonzero(la).sum())(locations.double()) * 2
    for part in (slope[:PERIOD], slope[-PERIOD:]):
        torch.testing.assert_close(part.double(), own, rtol=1e-5, atol=1e-12)


@pytest.mark.slow
def test_counts_of_1e8_gates_are_exact(problem, locations):
    params, gates, spec = problem
    opened = int((D.deterministic(locations) != 0).sum()) * (MANY // PERIOD)
    assert 2**24 < opened < MANY
    table = l0.summary(params, gates, spec)
    assert table.total.realised_open == opened
    assert table.total.expected_open == pytest.approx(
        over_all(D.prob_nonzero(locations)), rel=1e-6
    )
    assert int((l0.prune(params, gates, spec)["w"] != 0).sum()) == opened


@pytest.mark.slow
def test_1e8_draws_are_those_of_the_key_to_the_last(problem, locations):
    _, gates, spec = problem
    key = l0.random.key(11)
    mask = l0.sample_masks(key, gates, spec)["w"]
    own = l0.random.fold_in(key, spec.gates[0].stream)
    last = torch.tensor([0, 2**20, MANY // 4 - 1])
    u = l0.random.uniforms_at(own, last)
    places = (4 * last[:, None] + torch.arange(4)).flatten()
    expected = D.quantile(u.flatten(), gates["w"][places])
    torch.testing.assert_close(mask[places], expected, rtol=1e-6, atol=1e-6)
    opened = float((mask != 0).double().mean())
    probability = float(D.prob_nonzero(locations.double()).mean())
    assert abs(opened - probability) * MANY**0.5 < 5 * 0.5


def uniforms_of(seed, offset, call):
    """The uniforms of one call, in Python's integers."""
    return philox.unit(torch.tensor(philox.call(seed, offset, call)))


BEYOND = (2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**33 + 5, 2**61)


@pytest.mark.parametrize("call", BEYOND)
def test_calls_beyond_32_bits_have_their_own_draws(call):
    key = l0.random.key(5)
    expected = uniforms_of(5, 0, call)
    assert torch.equal(l0.random.uniforms_at(key, torch.tensor([call]))[0], expected)
    assert torch.equal(l0.random.uniform(torch.tensor([5, call]), 4), expected)
    assert torch.equal(
        l0.random.row_keys(key, torch.tensor([call]))[0], l0.random.fold_in(key, call)
    )
    assert l0.random.fold_in(key, call).tolist() == list(philox.folded(5, 0, call))


@pytest.mark.parametrize("offset", [2**31 - 2, 2**32 - 2, 2**63 - 2])
def test_a_stream_goes_on_across_the_end_of_a_word(offset):
    u = l0.random.uniform(torch.tensor([5, offset]), 16)
    expected = [uniforms_of(5, offset, call) for call in range(4)]
    assert torch.equal(u, torch.cat(expected))
