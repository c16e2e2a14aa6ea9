"""Tails and moments of gates: both backends against Simpson's rule, and against each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from l0func.kernels import by_torch
from l0func.kernels.by_torch import Node
from l0func.kernels.formula import Formula
from l0func.kernels.vocabulary import exp, log, where

by_numba = pytest.importorskip("l0func.kernels.by_numba.api")

TEMPERATURE, GAMMA, ZETA = 2 / 3, -0.1, 1.1
LOCATIONS = [-40.0, -12.0, -3.0, -0.5, 0.0, 1e-3, 2.0, 7.0, 40.0]


def prepare(la, temperature, gamma, zeta):
    near = where(la > 85.0, 85.0, where(la < -85.0, -85.0, la))
    return la, exp(-near)


def draw(u, p, q, temperature, gamma, zeta):
    return u, p


def node(t, temperature, gamma, zeta):
    return exp(temperature * log((t - gamma) / (zeta - t)))


def tails(c, p, q, temperature, gamma, zeta):
    odds = q * c
    survival = 1.0 / (1.0 + odds)
    cumulative = odds * survival
    return survival, cumulative, survival * cumulative


FORMULA = Formula(prepare, draw, node, tails, (TEMPERATURE, GAMMA, ZETA))


def constant(t: float) -> float:
    return float(node(torch.tensor(t, dtype=torch.float64), *FORMULA.settings))


def nodes(size: int = 24) -> list[Node]:
    points, weights = np.polynomial.legendre.leggauss(size)
    pairs = zip((points + 1) / 2, weights / 2, strict=True)
    return [Node(float(t), float(w), constant(float(t))) for t, w in pairs]


def simpson(la: float) -> tuple[float, float]:
    """Mean and variance by Simpson's rule on the paper's tails."""
    t = np.linspace(0.0, 1.0, 20_001)
    logit = la - TEMPERATURE * np.log((t - GAMMA) / (ZETA - t))
    # Of 1 - z where the gate is open: its variance is the same, and no small number is lost.
    tail = 1.0 / (1.0 + np.exp(logit if la > 0 else -logit))
    twice = 2.0 * (1.0 - t) if la > 0 else 2.0 * t
    weights = np.full(t.size, 2.0)
    weights[1::2], weights[[0, -1]] = 4.0, 1.0
    first, second = (weights @ f / (3 * (t.size - 1)) for f in (tail, twice * tail))
    return (1.0 - first if la > 0 else first), second - first**2


def spread(dtype: torch.dtype) -> Tensor:
    """Locations in several blocks, the last one short."""
    la = torch.linspace(-45.0, 45.0, 1003, dtype=dtype)
    la[::97] = torch.inf
    la[1::97] = -torch.inf
    return la


@pytest.mark.parametrize("kernels", [by_torch, by_numba], ids=["torch", "numba"])
@pytest.mark.parametrize(("dtype", "precision"), [(torch.float32, 4e-6), (torch.float64, 1e-11)])
def test_mean_and_variance_equal_simpsons_rule(kernels, dtype, precision):
    found = kernels.moments(FORMULA, nodes(), torch.tensor(LOCATIONS, dtype=dtype))
    wanted = torch.tensor([simpson(la) for la in LOCATIONS], dtype=torch.float64)
    torch.testing.assert_close(found.mean.double(), wanted[:, 0], rtol=precision, atol=0)
    torch.testing.assert_close(found.variance.double(), wanted[:, 1], rtol=precision, atol=0)


@pytest.mark.parametrize("kernels", [by_torch, by_numba], ids=["torch", "numba"])
def test_slopes_are_the_derivatives_of_the_values(kernels):
    la = torch.linspace(-8.0, 8.0, 41, dtype=torch.float64)
    step = 1e-5
    up, down = (kernels.moments(FORMULA, nodes(), la + d) for d in (step, -step))
    found = kernels.moments(FORMULA, nodes(), la)
    for slope, upper, lower in zip(found[2:], up[:2], down[:2], strict=True):
        torch.testing.assert_close(slope, (upper - lower) / (2 * step), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize(("dtype", "precision"), [(torch.float32, 3e-6), (torch.float64, 1e-12)])
def test_the_backends_agree_also_at_infinite_locations(dtype, precision):
    la = spread(dtype)
    w, mean_grad, variance_grad = torch.randn(3, la.numel(), dtype=dtype).unbind()
    calls = {
        "tail": (constant(0.3), la),
        "moments": (nodes(), la),
        "masked_moments": (nodes(), la, w),
        "masked_moment_grads": (nodes(), la, w, mean_grad, variance_grad),
    }
    for name, args in calls.items():
        found = getattr(by_numba, name)(FORMULA, *args)
        wanted = getattr(by_torch, name)(FORMULA, *args)
        torch.testing.assert_close(tuple(found), tuple(wanted), rtol=precision, atol=precision)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_nan_stays_one_and_harms_no_neighbour(dtype):
    la = torch.tensor([0.5, torch.nan, 0.5], dtype=dtype)
    w = torch.ones(3, dtype=dtype)
    for found in (
        by_numba.tail(FORMULA, constant(0.0), la),
        by_numba.moments(FORMULA, nodes(), la),
        by_numba.masked_moments(FORMULA, nodes(), la, w),
        by_numba.masked_moment_grads(FORMULA, nodes(), la, w, w, w),
    ):
        for result in found:
            assert result.isnan().tolist() == [False, True, False]


def test_no_gates_have_no_moments():
    empty = torch.empty(0)
    for result in by_numba.masked_moments(FORMULA, nodes(), empty, empty):
        assert result.shape == (0,)


def test_threads_change_no_bit(monkeypatch):
    la = torch.linspace(-9.0, 9.0, 300_001)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    alone = by_numba.moments(FORMULA, nodes(), la)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    together = by_numba.moments(FORMULA, nodes(), la)
    for a, b in zip(alone, together, strict=True):
        assert torch.equal(a, b)
