"""Gates at the edges: locations to 1e4 and infinity, steep and flat settings, four float types.

The references are computed with 30 digits from the formulas in the papers.
"""

from __future__ import annotations

import inspect
import math
from functools import cache

import mpmath as mp
import pytest
import torch
from sampled import one_in, sampled

import l0func as l0

pytestmark = pytest.mark.on_cpu
BETAS = (0.05, 0.2, 2 / 3, 1.0, 5.0)
EDGES = [
    *(l0.HardConcrete(beta) for beta in BETAS),
    l0.HardConcrete(2 / 3, -0.001, 1.001),
    *(l0.HardKuma(scale) for scale in (0.2, 1.0, 5.0)),
    *(l0.GaussianGate(sigma) for sigma in (0.05, 0.5, 5.0)),
    l0.BernoulliGate(),
]
every = pytest.mark.parametrize("d", EDGES, ids=repr)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
FINITE = (0.0, 1e-30, 0.5, 1.0, 3.0, 10.0, 17.0, 40.0, 89.0, 104.0, 710.0, 746.0, 1e3, 1e4)
LOCATIONS = [sign * la for la in (*FINITE, math.inf) for sign in (1.0, -1.0)]
OF_LOCATIONS = ("prob_nonzero", "prob_one", "mean", "second_moment", "variance", "deterministic")
UNIFORMS = (2.0**-24, 0.1, 0.5, 0.9, 1 - 2.0**-24)


def functions_of(d):
    found = {name: getattr(d, name) for name in OF_LOCATIONS}
    for estimator in ("louizos", "median", "mean"):
        found[f"deterministic {estimator}"] = lambda la, e=estimator: d.deterministic(la, e)
    for u in UNIFORMS:
        found[f"quantile {u}"] = lambda la, u=u: d.quantile(torch.tensor(u), la)
    for t in (0.0, 0.3, 0.999):
        found[f"cdf {t}"] = lambda la, t=t: d.cdf(t, la)
    return found


@every
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_and_slopes_are_finite_and_in_range_at_every_edge(d, dtype):
    la = torch.tensor(LOCATIONS, dtype=dtype, requires_grad=True)
    for name, function in functions_of(d).items():
        value = function(la)
        (slope,) = torch.autograd.grad(value.sum(), la)
        assert value.dtype == dtype, name
        assert ((value >= 0) & (value <= 1)).all(), (name, value)
        assert slope.isfinite().all(), (name, slope)
        ends = value[-2:].tolist()
        limits = {"cdf": [0.0, 1.0], "variance": [0.0, 0.0]}.get(name.split()[0], [1.0, 0.0])
        # Exponents end at 85, in all types: beyond it a tail keeps its last number.
        assert ends == pytest.approx(limits, rel=1e-6, abs=1e-30), name


@every
@pytest.mark.parametrize("location", LOCATIONS)
def test_one_gate_in_a_network_is_finite_at_every_edge(d, location):
    params = {"w": torch.full((1,), 0.7)}
    spec = l0.gate_spec(params, distribution=d)
    gates = {"w": torch.tensor([location])}

    def price(gates):
        masks = l0.sample_masks(l0.random.key(3), gates, spec)
        kept = l0.apply_masks(params, masks)["w"].sum()
        return kept + l0.penalty(params, gates, spec, 0.1, weight_decay=0.1)

    slope, value = torch.func.grad_and_value(price)(gates)
    assert value.isfinite()
    assert slope["w"].isfinite().all()
    assert 0 <= float(l0.expected_l0(gates, spec)) <= 1
    assert 0 <= float(l0.mean_masks(gates, spec)["w"]) <= 1
    for estimator in ("louizos", "median", "mean"):
        assert 0 <= float(l0.deterministic_masks(gates, spec, estimator)["w"]) <= 1


# References with 30 digits; the 50 beyond are lost in differences from 1.


def survival(d, t, la):
    """P(z > t) for t in [0, 1)."""
    if isinstance(d, l0.HardConcrete):
        gamma, zeta = mp.mpf(d.gamma), mp.mpf(d.zeta)
        bend = mp.mpf(d.temperature) * mp.log((t - gamma) / (zeta - t))
        return 1 / (1 + mp.exp(bend - la))
    if isinstance(d, l0.GaussianGate):
        return mp.erfc((t - la) / mp.mpf(d.sigma) / mp.sqrt(2)) / 2
    if isinstance(d, l0.BernoulliGate):
        return 1 / (1 + mp.exp(-la))
    assert isinstance(d, l0.HardKuma)
    scale, low, high = mp.mpf(d.concentration), mp.mpf(d.low), mp.mpf(d.high)
    a, b = scale * mp.exp(la / 2), scale * mp.exp(-la / 2)
    return mp.exp(b * mp.log1p(-(((t - low) / (high - low)) ** a)))


def drawn(d, u, la):
    """The gate at probability u."""
    u = mp.mpf(u)
    if isinstance(d, l0.HardConcrete):
        s = 1 / (1 + mp.exp(-(mp.log(u) - mp.log1p(-u) + la) / mp.mpf(d.temperature)))
        z = s * (mp.mpf(d.zeta) - mp.mpf(d.gamma)) + mp.mpf(d.gamma)
    elif isinstance(d, l0.GaussianGate):
        z = la + mp.mpf(d.sigma) * mp.sqrt(2) * mp.erfinv(2 * u - 1)
    elif isinstance(d, l0.BernoulliGate):
        z = mp.mpf(u > 1 / (1 + mp.exp(la)))
    else:
        scale, low, high = mp.mpf(d.concentration), mp.mpf(d.low), mp.mpf(d.high)
        a, b = scale * mp.exp(la / 2), scale * mp.exp(-la / 2)
        z = low + (high - low) * (1 - (1 - u) ** (1 / b)) ** (1 / a)
    return min(mp.mpf(1), max(mp.mpf(0), z))


@cache
def moment(d, location, order):
    """E[z^order], the integral of the survival function with weight order t^(order - 1)."""
    la = mp.mpf(location)
    points = [0, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 1]
    return mp.quad(lambda t: order * t ** (order - 1) * survival(d, t, la), points)


MILD = (-12.0, -3.0, -0.5, 0.0, 0.7, 2.0, 9.0)
WIDE = (-80.0, -35.0, *MILD, 35.0, 80.0)


def assert_digits(value, expected, digits, name):
    """Agreement to some digits of the number, or of the smallest that its type can hold."""
    assert value.dtype in DTYPES
    exact = float(expected)
    tiny = max(1e-30, 4 * torch.finfo(value.dtype).tiny)
    assert abs(float(value) - exact) <= 10.0**-digits * abs(exact) + tiny, (name, value, exact)


# Digits of P(z > 0), P(z = 1) and cdf, and absolute digits of draws, for each type.
DIGITS = {torch.float32: 4.5, torch.float64: 12.5, torch.bfloat16: 1.0, torch.float16: 1.7}


@every
@pytest.mark.parametrize("dtype", DIGITS, ids=str)
def test_probabilities_have_their_digits_far_into_both_tails(d, dtype):
    with mp.workdps(80):
        for location in WIDE:
            la = torch.tensor(location, dtype=dtype)
            exact = mp.mpf(float(la))
            opened = survival(d, mp.mpf(0), exact)
            one = survival(d, mp.mpf(1), exact)
            assert_digits(d.prob_nonzero(la), opened, DIGITS[dtype], f"open {location}")
            assert_digits(d.prob_one(la), one, DIGITS[dtype], f"one {location}")
            assert_digits(d.cdf(0.0, la), 1 - opened, DIGITS[dtype], f"closed {location}")


@every
@pytest.mark.parametrize("dtype", DIGITS, ids=str)
def test_draws_have_their_digits(d, dtype):
    with mp.workdps(80):
        for location in MILD:
            la = torch.tensor(location, dtype=dtype)
            for u in (0.01, 0.25, 0.5, 0.77, 0.99):
                given = torch.tensor(u, dtype=torch.float64 if dtype == torch.float64 else None)
                exact = drawn(d, float(given), mp.mpf(float(la)))
                error = abs(float(d.quantile(given, la)) - float(exact))
                # A steep gate multiplies the rounding of its location.
                steep = 1 / min(getattr(d, "temperature", 1.0), 1.0)
                assert error <= steep * (1 + abs(location)) * 10.0 ** -DIGITS[dtype], (location, u)


@pytest.mark.parametrize("d", sampled(EDGES, one_in(6)), ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_moments_have_four_digits_in_every_dtype(d, dtype):
    with mp.workdps(80):
        for location in MILD:
            la = torch.tensor(location, dtype=dtype)
            first, second = (moment(d, float(la), order) for order in (1, 2))
            assert_digits(d.mean(la), first, 4.5, f"mean {location}")
            assert_digits(d.second_moment(la), second, 4.5, f"square {location}")


@pytest.mark.parametrize("d", [d for d in EDGES if isinstance(d, l0.HardConcrete)], ids=repr)
def test_the_gate_of_the_paper_at_test_time_has_its_digits(d):
    with mp.workdps(80):
        for location in WIDE:
            la = torch.tensor(location, dtype=torch.float64)
            s = 1 / (1 + mp.exp(-mp.mpf(location)))
            z = s * (mp.mpf(d.zeta) - mp.mpf(d.gamma)) + mp.mpf(d.gamma)
            exact = min(mp.mpf(1), max(mp.mpf(0), z))
            assert float(d.deterministic(la)) == pytest.approx(float(exact), abs=1e-14)


def test_every_public_distribution_is_at_the_edges():
    public = {name for name in l0.__all__ if inspect.isclass(getattr(l0, name))}
    gates = {n for n in public if issubclass(getattr(l0, n), l0.GateDistribution)}
    assert gates - {"GateDistribution", "CustomGate"} == {type(d).__name__ for d in EDGES}
