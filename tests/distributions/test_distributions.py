"""One contract for every gate distribution: a newcomer is added to CASES and nothing else."""

from __future__ import annotations

import copy
import json
import math
import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import oracles
import pytest
import torch
from oracles import FUNCTIONS
from torch import Tensor

import l0func as l0
from l0func import distributions, random
from l0func.distributions import GateDistribution
from l0func.kernels.choice import chosen

CASES: list[GateDistribution] = [
    l0.HardConcrete(),
    l0.HardConcrete(0.5, -0.1, 1.1),
    l0.HardConcrete(1.0, -0.25, 1.25),
    l0.HardConcrete(5.0),
    l0.HardConcrete(2 / 3, -0.001, 1.001),
    l0.HardConcrete(2 / 3, -0.2, 1.05),
    l0.GaussianGate(),
    l0.GaussianGate(0.2),
    l0.HardKuma(),
    l0.HardKuma(1.0, -0.2, 1.05),
    l0.BernoulliGate(),
]
every = pytest.mark.parametrize("d", CASES, ids=repr)
CONTINUOUS = [d for d in CASES if not isinstance(d, l0.BernoulliGate)]
continuous = pytest.mark.parametrize("d", CONTINUOUS, ids=repr)


@pytest.fixture(params=["eager", "auto"], autouse=True)
def road(request):
    """Every test runs on torch operations and on the kernels that are there."""
    before = chosen()
    l0.use_kernel(request.param)
    yield
    l0.use_kernel(before)


GRID = [-6.0, -2.5, -1.0, -0.3, 0.0, 0.2, 0.7, 1.5, 3.0, 6.0]


def grid(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(GRID, dtype=dtype)


@every
def test_moments_equal_simpsons_rule_on_the_written_survival_function(d):
    first = torch.tensor([oracles.moment(d, la, 1) for la in GRID], dtype=torch.float64)
    second = torch.tensor([oracles.moment(d, la, 2) for la in GRID], dtype=torch.float64)
    torch.testing.assert_close(d.mean(grid()), first, rtol=0, atol=1e-10)
    torch.testing.assert_close(d.second_moment(grid()), second, rtol=0, atol=1e-10)
    torch.testing.assert_close(d.variance(grid()), second - first**2, rtol=0, atol=1e-10)
    for name, value in (
        ("mean", first),
        ("second_moment", second),
        ("variance", second - first**2),
    ):
        torch.testing.assert_close(
            getattr(d, name)(grid(torch.float32)).double(), value, rtol=0, atol=1e-6
        )


@every
def test_probabilities_equal_the_written_survival_function(d):
    for la in GRID:
        at = torch.tensor(la, dtype=torch.float64)
        assert d.prob_nonzero(at).item() == pytest.approx(
            float(oracles.survival(d, np.array(0.0), la)), abs=1e-12
        )
        assert d.prob_one(at).item() == pytest.approx(
            float(oracles.survival(d, np.array(1.0), la)), abs=1e-12
        )
        for t in (0.05, 0.4, 0.97):
            assert d.cdf(t, at).item() == pytest.approx(
                1 - float(oracles.survival(d, np.array(t), la)), abs=1e-12
            )


@every
def test_draws_are_those_of_the_papers_formula(d):
    u = np.linspace(1, 99, 99) / 100
    for la in GRID:
        drawn = d.quantile(torch.tensor(u), torch.tensor(la, dtype=torch.float64))
        torch.testing.assert_close(
            drawn, torch.tensor(oracles.draw(d, u, np.array(la))), rtol=1e-9, atol=1e-12
        )


@every
def test_samples_average_to_what_is_promised(d):
    n = 200_000
    la = grid(torch.float32)
    z = torch.vmap(lambda key: d.sample(key, la))(random.split(random.key(1), n)).double()
    promised = {
        "mean": (z, d.mean(la)),
        "second_moment": (z**2, d.second_moment(la)),
        "prob_nonzero": ((z > 0).double(), d.prob_nonzero(la)),
        "prob_one": ((z == 1).double(), d.prob_one(la)),
        "cdf": ((z <= 0.3).double(), d.cdf(0.3, la)),
    }
    for name, (values, expected) in promised.items():
        expected, spread = expected.double(), values.std(0)
        # All values are in [0, 1]; where no draw differed from another, m (1 - m) bounds their
        # variance.
        spread = torch.where(spread > 0, spread, (expected * (1 - expected)).clamp(min=0).sqrt())
        error = (values.mean(0) - expected).abs()
        assert (error <= 5 * spread / math.sqrt(n) + 1e-6).all(), name
    spread = (z.var(0) - d.variance(la).double()).abs()
    assert (spread <= 5 * (z - z.mean(0)).pow(2).std(0) / math.sqrt(n) + 1e-6).all()


@continuous
def test_cdf_and_quantile_invert_each_other_between_the_atoms(d):
    u = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    for droprate in (0.1, 0.3, 0.6):
        at = torch.tensor(d.init(droprate), dtype=torch.float64)
        z = d.quantile(u, at)
        inside = (z > 0) & (z < 1)
        assert inside.any()
        torch.testing.assert_close(d.cdf(z, at)[inside], u[inside], rtol=0, atol=1e-10)
        assert (d.cdf(z, at)[~inside] >= u[~inside] - 1e-12).all()


@every
def test_cdf_is_zero_below_the_interval_and_one_from_its_end(d):
    la = grid()
    assert (d.cdf(-0.01, la) == 0).all()
    assert (d.cdf(1.0, la) == 1).all()
    assert (d.cdf(2.5, la) == 1).all()
    torch.testing.assert_close(
        d.cdf(0.0, la) + d.prob_nonzero(la), torch.ones_like(la), rtol=0, atol=1e-12
    )


@every
@pytest.mark.parametrize("x", [-2.5, -0.5, -0.01, 1.0, 1.01, 2.5])
def test_a_cdf_outside_the_interval_has_no_slope(d, x):
    la = grid().requires_grad_()
    (slope,) = torch.autograd.grad(d.cdf(x, la).sum(), la)
    assert (slope == 0).all()


@pytest.mark.parametrize("d", [d for d in CASES if isinstance(d, l0.HardKuma)], ids=repr)
def test_the_hard_kumaraswamy_gate_at_test_time_is_the_most_probable_of_three(d):
    locations = np.linspace(-6, 6, 49)
    u = (np.arange(100_000) + 0.5) / 100_000
    expected = []
    for la in locations:
        a, b = d.concentration * np.exp(la / 2), d.concentration * np.exp(-la / 2)
        x = (1 - (1 - u) ** (1 / b)) ** (1 / a)
        z = d.low + (d.high - d.low) * x
        shares = [(z <= 0).mean(), ((z > 0) & (z < 1)).mean(), (z >= 1).mean()]
        between = np.clip(d.low + (d.high - d.low) * x.mean(), 0, 1)
        expected.append([0.0, between, 1.0][int(np.argmax(shares))])
    found = d.deterministic(torch.tensor(locations))
    assert {0.0, 1.0} < set(expected)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-3)


@continuous
def test_atoms_are_exact_and_have_no_slope(d):
    la = grid().requires_grad_()
    u = torch.tensor([[1e-6], [0.5], [1 - 1e-6]], dtype=torch.float64)
    z = d.quantile(u, la)
    (slope,) = torch.autograd.grad(z.sum(), la)
    per_draw = torch.autograd.functional.jacobian(
        lambda a: d.quantile(u, a), la.detach()
    ).diagonal(dim1=1, dim2=2)
    on_atom = (z == 0) | (z == 1)
    assert (z == 0).any()
    assert (z == 1).any()
    assert (per_draw[on_atom] == 0).all()
    assert (per_draw[~on_atom] > 0).all()
    torch.testing.assert_close(slope, per_draw.sum(0))


@every
def test_gradients_equal_finite_differences(d):
    la = grid()
    step = 1e-6
    for name in FUNCTIONS:
        function = getattr(d, name)
        if name == "deterministic":
            inside = (function(la) > 1e-3) & (function(la) < 1 - 1e-3)
            la_here = la[inside]
        else:
            la_here = la
        (gradient,) = torch.autograd.grad(
            function(leaf := la_here.clone().requires_grad_()).sum(), leaf
        )
        difference = (function(la_here + step) - function(la_here - step)) / (2 * step)
        torch.testing.assert_close(gradient, difference, rtol=2e-6, atol=2e-9)


@continuous
def test_derivatives_of_a_draw_equal_finite_differences(d):
    la = grid()
    u = torch.tensor(0.37, dtype=torch.float64)
    z = d.quantile(u, la)
    la = la[(z > 1e-4) & (z < 1 - 1e-4)]
    assert torch.autograd.gradcheck(lambda a: d.quantile(u, a), la.clone().requires_grad_())
    assert torch.autograd.gradgradcheck(lambda a: d.quantile(u, a), la.clone().requires_grad_())


@every
def test_a_quantile_has_a_slope_in_its_probability_too(d):
    la, u = (
        torch.tensor([-0.5, 0.1, 0.6], dtype=torch.float64),
        torch.tensor([0.45, 0.5, 0.4], dtype=torch.float64),
    )
    step = torch.full_like(u, 1e-6)
    difference = (d.quantile(u + step, la) - d.quantile(u - step, la)) / 2e-6
    backward = torch.func.grad(lambda u: d.quantile(u, la).sum())(u)
    forward = torch.func.jvp(lambda u: d.quantile(u, la), (u,), (torch.ones_like(u),))[1]
    torch.testing.assert_close(backward, difference, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(forward, backward)


@every
def test_locations_with_any_strides_or_none_give_the_same(d):
    la = torch.randn(7, 9, dtype=torch.float64)
    whole = d.mean_and_variance(la)
    u = torch.rand(5, 7, 9, dtype=torch.float64)
    drawn = d.quantile(u, la)
    for ours, theirs in zip(d.mean_and_variance(la.t()), whole, strict=True):
        torch.testing.assert_close(ours, theirs.t(), rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(d.quantile(u.transpose(1, 2), la.t()), drawn.transpose(1, 2))
    torch.testing.assert_close(d.quantile(u[:, :1], la), d.quantile(u[:, :1].expand(u.shape), la))
    assert d.mean_and_variance(la[:0])[1].shape == (0, 9)
    assert d.quantile(u[:, :0], la[:0]).shape == (5, 0, 9)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_extreme_locations_and_half_precision_stay_finite(d, dtype):
    la = torch.tensor(
        [-300.0, -100.0, -40.0, 0.0, 40.0, 100.0, 300.0], dtype=dtype, requires_grad=True
    )
    draws = [lambda a, u=u: d.quantile(torch.tensor(u), a) for u in (2.0**-24, 0.3, 1 - 2.0**-24)]
    fixed = [lambda a, e=e: d.deterministic(a, e) for e in ("louizos", "median", "mean")]
    for function in (
        *(getattr(d, name) for name in FUNCTIONS),
        *draws,
        *fixed,
        lambda a: d.cdf(0.5, a),
    ):
        value = function(la)
        (gradient,) = torch.autograd.grad(value.sum(), la)
        assert value.dtype == dtype
        assert value.isfinite().all()
        assert gradient.isfinite().all()
        assert ((value >= 0) & (value <= 1)).all()


@every
def test_variance_has_four_digits_where_float32_would_cancel(d):
    # Of the two tails, P(z > t) and P(z <= t), the smaller one in float64: its moments do not
    # cancel.
    t = torch.linspace(0, 1, 20001, dtype=torch.float64).clamp(max=1 - 1e-12)
    for la in (-40.0, 40.0, -15.0, 15.0):
        at = torch.tensor(la, dtype=torch.float64)
        tail, weight = (
            (d._cumulative(t, at), 2 * (1 - t)) if la > 0 else (d._survival(t, at), 2 * t)
        )
        expected = (torch.trapezoid(tail * weight, t) - torch.trapezoid(tail, t) ** 2).item()
        if expected < 1e-37:
            assert d.variance(at.float()).item() < 1e-37
            continue
        assert d.variance(at.float()).item() == pytest.approx(expected, rel=1e-4)


@every
def test_a_larger_location_gives_a_larger_gate(d):
    la = torch.linspace(-8, 8, 161, dtype=torch.float64)
    for name in ("prob_nonzero", "prob_one", "mean", "second_moment"):
        assert (getattr(d, name)(la).diff() >= 0).all(), name
    for estimator in ("louizos", "median", "mean"):
        assert (d.deterministic(la, estimator).diff() >= -1e-12).all(), estimator
    assert (d.quantile(torch.tensor(0.4), la).diff() >= 0).all()


@every
def test_vmap_equals_a_loop_over_keys_and_locations(d):
    keys, la = random.split(random.key(3), 4), torch.randn(4, 5)
    rows = torch.vmap(d.sample)(keys, la)
    loop = torch.stack([d.sample(key, row) for key, row in zip(keys, la, strict=True)])
    torch.testing.assert_close(rows, loop, rtol=0, atol=5e-7)
    assert torch.equal(rows == 0, loop == 0)
    for name in FUNCTIONS:
        torch.testing.assert_close(torch.vmap(getattr(d, name))(la), getattr(d, name)(la))


@every
@pytest.mark.parametrize("dims", [(0, None), (None, 1), (1, 0)], ids=str)
def test_a_quantile_maps_over_probabilities_locations_or_both(d, dims):
    u = torch.linspace(0.02, 0.98, 100).reshape(4, 5, 5)
    given = u if dims[0] is None else u[0], torch.linspace(-2, 2, 25).reshape(5, 5)
    if dims[1] is None:
        given = given[0], given[1][0]

    def own(t: Tensor, dim: int | None, i: int) -> Tensor:
        return t if dim is None else t.select(dim, i)

    found = torch.vmap(d.quantile, dims)(*given)
    rows = [[own(t, dim, i) for t, dim in zip(given, dims, strict=True)] for i in range(5)]
    loop = torch.stack([d.quantile(*row) for row in rows])
    torch.testing.assert_close(found, loop, rtol=0, atol=5e-7)


@every
def test_forward_mode_agrees_with_reverse_mode(d):
    la = grid()
    direction = torch.linspace(-1, 2, len(la), dtype=la.dtype)
    for function in (d.mean, d.variance, lambda a: d.quantile(torch.tensor(0.4), a)):
        _, tangent = torch.func.jvp(function, (la,), (direction,))
        slope = torch.func.grad(lambda a, f=function: f(a).sum())(la)
        torch.testing.assert_close(tangent, slope * direction)


@every
def test_dtype_and_device_are_those_of_the_locations(d):
    for la in (
        torch.zeros(3, dtype=torch.bfloat16),
        torch.zeros(3, device="meta"),
        torch.zeros((), dtype=torch.float64),
    ):
        for name in FUNCTIONS:
            value = getattr(d, name)(la)
            assert (value.dtype, value.device.type, value.shape) == (
                la.dtype,
                la.device.type,
                la.shape,
            )
        u = torch.full(la.shape, 0.5, device=la.device)
        assert d.quantile(u, la).dtype == la.dtype
        assert d.quantile(u, la).device.type == la.device.type


@every
@pytest.mark.parametrize("droprate", [1e-3, 0.05, 0.2, 0.5, 0.8, 0.999])
def test_droprate_is_the_probability_of_starting_closed(d, droprate):
    at = torch.tensor(d.init(droprate), dtype=torch.float64)
    assert d.cdf(0.0, at).item() == pytest.approx(droprate, abs=1e-9)
    half = torch.tensor(d.init(droprate, at=0.5), dtype=torch.float64)
    assert d.cdf(0.5, half).item() == pytest.approx(droprate, abs=1e-9)


@every
def test_a_distribution_is_a_value(d):
    assert distributions.from_dict(json.loads(json.dumps(d.to_dict()))) == d
    for twin in (
        pickle.loads(pickle.dumps(d)),
        copy.deepcopy(d),
        distributions.from_dict(d.to_dict()),
    ):
        assert twin == d
        assert hash(twin) == hash(d)
        torch.testing.assert_close(twin.mean(grid()), d.mean(grid()), rtol=0, atol=0)
    with pytest.raises(FrozenInstanceError):
        d.temperature = 1.0


def test_every_distribution_is_in_the_suite():
    assert {type(d).__name__ for d in CASES} == set(distributions.DISTRIBUTIONS)
