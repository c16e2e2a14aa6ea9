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
        (lambda: l0.HardConcrete(temperature=0.0), "temperature must be positive"),
        (lambda: l0.HardConcrete(temperature=math.nan), "temperature must be positive"),
        (lambda: l0.HardConcrete(temperature=1e4), "more than 512 quadrature nodes"),
        (lambda: l0.GaussianGate(sigma=-1.0), "sigma.*positive"),
        (lambda: l0.HardKuma(low=0.1), r"strictly contain \[0, 1\].*low=0.1"),
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
