"""Settings of distributions: refused by name, pickled, and integrated with enough nodes."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys

import pytest
import torch

import l0func as l0
from l0func import distributions, random
from l0func.distributions.quadrature import gauss_legendre


def test_gauss_legendre_is_exact_for_polynomials():
    for size in (8, 16, 128):
        nodes, weights = gauss_legendre(size)
        for degree in (0, 1, 7, 15):
            total = math.fsum(w * x**degree for x, w in zip(nodes, weights, strict=True))
            assert total == pytest.approx(1 / (degree + 1), abs=1e-14)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: l0.HardConcrete(gamma=0.0), r"strictly contain \[0, 1\].*gamma=0.0"),
        (lambda: l0.HardConcrete(zeta=0.9), r"strictly contain \[0, 1\].*zeta=0.9"),
        (lambda: l0.HardConcrete(zeta=1.0), r"strictly contain \[0, 1\].*zeta=1.0"),
        (lambda: l0.HardConcrete(temperature=0.0), "temperature must be positive"),
        (lambda: l0.HardConcrete(temperature=math.nan), "temperature must be positive"),
        (lambda: l0.HardConcrete(temperature=1e4), "more than 512 quadrature nodes"),
        (lambda: l0.GaussianGate(sigma=-1.0), "sigma.*positive"),
        (lambda: l0.HardKuma(low=0.1), r"strictly contain \[0, 1\].*low=0.1"),
        (lambda: l0.HardKuma(low=0.0), r"strictly contain \[0, 1\].*low=0.0"),
        (lambda: l0.HardKuma(high=1.0), r"strictly contain \[0, 1\].*high=1.0"),
        (lambda: l0.HardKuma(concentration=0.0), "concentration must be positive"),
        (lambda: l0.HardConcrete().init(0.0), "strictly between 0 and 1; got 0.0"),
        (lambda: l0.HardConcrete().init(1.5), "strictly between 0 and 1; got 1.5"),
        (lambda: l0.HardConcrete().init(0.5, at=1.0), r"in \[0, 1\); got at=1.0"),
        (
            lambda: l0.HardConcrete().deterministic(torch.zeros(2), "count"),
            "'louizos', 'median' or 'mean'; got 'count'",
        ),
        (
            lambda: distributions.from_dict({"kind": "Bernoulli"}),
            "one of .*HardConcrete.*'Bernoulli'",
        ),
    ],
)
def test_bad_settings_are_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()


SETTINGS = {
    l0.HardConcrete: ("temperature", "gamma", "zeta"),
    l0.HardKuma: ("concentration", "low", "high"),
    l0.GaussianGate: ("sigma",),
}
EVERY_SETTING = [(kind, name) for kind, names in SETTINGS.items() for name in names]


@pytest.mark.parametrize(("kind", "name"), EVERY_SETTING)
@pytest.mark.parametrize("value", ["0.5", None, True, [0.5], 0.5j], ids=repr)
def test_a_setting_that_is_no_number_is_named(kind, name, value):
    with pytest.raises(TypeError, match=f"{kind.__name__} takes a number as its {name}; got"):
        kind(**{name: value})


@pytest.mark.parametrize(("kind", "name"), EVERY_SETTING)
def test_a_tensor_as_a_setting_is_named_with_the_way_out(kind, name):
    value = torch.tensor(getattr(kind(), name))
    with pytest.raises(TypeError, match=rf"{name} is a tensor. Give {name}.item\(\)"):
        kind(**{name: value})


@pytest.mark.parametrize(("kind", "name"), EVERY_SETTING)
@pytest.mark.parametrize("size", [math.inf, math.nan, 1e300, 1e30, 1e-300])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_setting_that_float32_cannot_compute_with_is_named(kind, name, size, sign):
    with pytest.raises(ValueError, match=f"{name}|more than 512"):
        kind(**{name: sign * size})


EXTREME = [
    *(l0.HardConcrete(t, g, z) for t in (1e-6, 0.1, 2.0) for g, z in ((-1e-6, 1.5), (-1e3, 1e3))),
    *(l0.HardKuma(c, -0.1, z) for c in (1e-3, 0.1, 10.0) for z in (1.001, 100.0)),
    *(l0.GaussianGate(s) for s in (0.1, 10.0, 1e4)),
]


@pytest.mark.parametrize("d", EXTREME, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_extremes_of_the_allowed_settings_stay_finite(d, dtype):
    la = torch.tensor([-30.0, -3.0, 0.0, 3.0, 30.0], dtype=dtype, requires_grad=True)
    for u in (2.0**-24, 0.5, 1 - 2.0**-24):
        draws = d.quantile(torch.tensor(u), la)
        results = (draws, d.mean(la), d.variance(la), d.prob_nonzero(la), d.deterministic(la))
        slopes = torch.autograd.grad(sum(r.sum() for r in results), la)[0]
        assert all(((r >= 0) & (r <= 1)).all() for r in results)
        assert slopes.isfinite().all()


def test_numbers_of_other_libraries_become_python_numbers():
    numpy = pytest.importorskip("numpy")
    d = l0.HardConcrete(numpy.float32(0.5), -1, numpy.float64(2))
    assert d == l0.HardConcrete(0.5, -1.0, 2.0)
    assert distributions.from_dict(d.to_dict()) == d
    assert all(type(value) is float for value in vars(d).values() if isinstance(value, float))


ALL = [l0.HardConcrete(), l0.HardConcrete(0.5), l0.HardKuma(), l0.GaussianGate()]
ALL.append(l0.BernoulliGate())
MOMENTS = ("mean", "variance", "second_moment", "prob_nonzero", "prob_one", "deterministic")


@pytest.mark.parametrize("d", ALL, ids=str)
@pytest.mark.parametrize("at", [math.inf, -math.inf, 1e30, -1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_second_derivative_at_infinity_is_zero(d, at, dtype):
    la = torch.tensor([at], dtype=dtype, requires_grad=True)
    for name in MOMENTS:
        value = getattr(d, name)(la)
        (slope,) = torch.autograd.grad(value.sum(), la, create_graph=True)
        assert abs(slope.item()) < 1e-20, name
        if slope.requires_grad:
            (curvature,) = torch.autograd.grad(slope.sum(), la, allow_unused=True)
            assert curvature is None or abs(curvature.item()) < 1e-20, name


@pytest.mark.parametrize("d", ALL, ids=str)
@pytest.mark.parametrize("name", [*MOMENTS, "quantile"])
def test_forward_mode_in_a_dual_level_equals_reverse_mode(d, name):
    forward_ad = torch.autograd.forward_ad
    la = torch.tensor([-1.0, 0.3, 2.0], dtype=torch.float64)
    u = torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64)

    def function(a):
        return d.quantile(u, a) if name == "quantile" else getattr(d, name)(a)

    leaf = la.clone().requires_grad_()
    (expected,) = torch.autograd.grad(function(leaf).sum(), leaf)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(la, torch.ones_like(la))
        value, tangent = forward_ad.unpack_dual(function(dual))
    torch.testing.assert_close(value, function(la))
    torch.testing.assert_close(torch.zeros_like(la) if tangent is None else tangent, expected)


def test_a_distribution_that_was_pickled_elsewhere_gives_every_row_a_mask(tmp_path):
    file = tmp_path / "distribution.pickle"
    code = "import pathlib, pickle, sys, l0func as l0\n"
    code += "pathlib.Path(sys.argv[1]).write_bytes(pickle.dumps(l0.HardConcrete(0.31)))"
    subprocess.run([sys.executable, "-c", code, str(file)], check=True)
    distribution = pickle.loads(file.read_bytes())
    assert distribution == l0.HardConcrete(0.31)
    fn, params, buffers = l0.make_functional(torch.nn.Linear(3, 2))
    spec = l0.gate_spec(params, distribution=distribution)
    gates = l0.init_gates(random.key(0), spec)
    rows = l0.per_example(l0.gated(fn, spec))
    keys = random.split(random.key(1), 4)
    assert rows(params, gates, buffers, keys, torch.ones(4, 3)).shape == (4, 2)
