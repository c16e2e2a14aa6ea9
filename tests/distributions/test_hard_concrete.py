"""The hard concrete gate: reference values, the textbook form, published thresholds."""

from __future__ import annotations

import math
from functools import partial

import oracles
import pytest
import torch
from oracles import FUNCTIONS

import l0func as l0
from l0func import random

REFERENCE = [
    # log_alpha, temperature, gamma, zeta: P(z != 0), P(z = 1), E[z], E[z^2], Var[z], louizos,
    # median
    (
        -12.0,
        0.6666666666666666,
        -0.1,
        1.1,
        3.0388888056868356e-05,
        1.2422353610341161e-06,
        8.231818838290418e-06,
        4.852582884653894e-06,
        4.852515121812508e-06,
        0.0,
        0.0,
    ),
    (
        -2.398,
        0.6666666666666666,
        -0.1,
        1.1,
        0.31015320503482063,
        0.018046417531003486,
        0.10270884292032315,
        0.06495640379912959,
        0.054407297385097975,
        0.0,
        0.0,
    ),
    (
        0.0,
        0.6666666666666666,
        -0.1,
        1.1,
        0.8318221839916904,
        0.16817781600830958,
        0.5,
        0.39801788877589556,
        0.14801788877589556,
        0.5,
        0.5,
    ),
    (
        2.0,
        0.6666666666666666,
        -0.1,
        1.1,
        0.9733666552614841,
        0.5990247355990772,
        0.8573238969676813,
        0.8072543189886565,
        0.07225005467680508,
        0.9569564935734589,
        1.0,
    ),
    (
        -12.0,
        0.5,
        -0.1,
        1.1,
        2.0377631751918473e-05,
        1.8525462960891568e-06,
        7.263204936930698e-06,
        4.943083900195611e-06,
        4.943031146049656e-06,
        0.0,
        0.0,
    ),
    (
        -2.398,
        0.5,
        -0.1,
        1.1,
        0.23164383864377436,
        0.02667613232362926,
        0.09424798414659206,
        0.06701583483362708,
        0.058133152317930814,
        0.0,
        0.0,
    ),
    (
        0.0,
        0.5,
        -0.1,
        1.1,
        0.7683375209644601,
        0.23166247903554,
        0.5,
        0.42047112151935845,
        0.17047112151935842,
        0.5,
        0.5,
    ),
    (
        2.0,
        0.5,
        -0.1,
        1.1,
        0.9607946556879534,
        0.6901995468896718,
        0.8673605738832629,
        0.8306778280940159,
        0.0783634629669127,
        0.9569564935734589,
        1.0,
    ),
    (
        -12.0,
        1.0,
        -0.25,
        1.25,
        3.072011801199813e-05,
        1.22884096061368e-06,
        8.688752818667444e-06,
        4.871838590413434e-06,
        4.8717630959878905e-06,
        0.0,
        0.0,
    ),
    (
        -2.398,
        1.0,
        -0.25,
        1.25,
        0.3124775004571044,
        0.017855306216435957,
        0.10669652428318731,
        0.06462918886862233,
        0.05324504057450955,
        0.0,
        0.0,
    ),
    (
        0.0,
        1.0,
        -0.25,
        1.25,
        0.8333333333333334,
        0.16666666666666666,
        0.5,
        0.3888888888888889,
        0.1388888888888889,
        0.5,
        0.5,
    ),
    (
        2.0,
        1.0,
        -0.25,
        1.25,
        0.9736462614859072,
        0.5964180031090851,
        0.8525932244875195,
        0.7970442422576695,
        0.07012903581564361,
        1.0,
        1.0,
    ),
]


@pytest.mark.parametrize("row", REFERENCE, ids=str)
def test_hard_concrete_equals_quadrature_of_thirty_digits(row):
    (la, *settings), expected = row[:4], row[4:]
    d = l0.HardConcrete(*settings)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-6)):
        at = torch.tensor(la, dtype=dtype)
        values = [getattr(d, name)(at) for name in FUNCTIONS[:5]] + [
            d.deterministic(at),
            d.deterministic(at, "median"),
        ]
        assert [v.item() for v in values] == pytest.approx(expected, abs=tolerance)


def test_the_form_without_logarithms_equals_the_papers():
    d, n = l0.HardConcrete(), 1_000_000
    u = random.uniform(random.key(5), n)
    la = torch.linspace(-8, 8, n)
    textbook = (
        torch.sigmoid((torch.logit(u.double()) + la.double()) / d.temperature) * 1.2 - 0.1
    ).clamp(0, 1)
    ours = d.quantile(u, la)
    assert (ours.double() - textbook).abs().max().item() < 5e-7
    assert ((ours == 0) != (textbook == 0)).sum() <= 1
    assert ((ours == 1) != (textbook == 1)).sum() <= 1


def test_the_usual_recipe_starts_with_fewer_closed_gates_than_it_says():
    d = l0.HardConcrete()
    for droprate, closed in ((0.2, 0.048), (0.3, 0.080), (0.5, 0.168)):
        la = d.init(droprate, at=0.5)
        assert la == pytest.approx(math.log((1 - droprate) / droprate), abs=1e-12)
        assert d.cdf(0.0, torch.tensor(la)).item() == pytest.approx(closed, abs=5e-4)
    for droprate, mean in ((0.2, 0.454), (0.3, 0.341), (0.5, 0.194)):
        assert d.mean(torch.tensor(d.init(droprate))).item() == pytest.approx(mean, abs=5e-4)


def test_estimators_close_where_they_are_known_to():
    d = l0.HardConcrete()
    la = torch.linspace(-6, 6, 100_001, dtype=torch.float64)
    for estimator, threshold, error in (("louizos", 0.310, 0.103), ("median", 0.5, 0.194)):
        z = d.deterministic(la, estimator)
        assert d.prob_nonzero(la[z == 0]).max().item() == pytest.approx(threshold, abs=1e-3)
        assert (z - d.mean(la)).abs().max().item() == pytest.approx(error, abs=1e-3)
    assert (d.deterministic(la, "mean") > 0).all()


SETTINGS = [(2 / 3, -0.1, 1.1), (0.5, -0.1, 1.1), (1.7, -0.25, 1.05), (30.0, -0.5, 1.5)]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_draw_has_the_derivatives_of_the_papers_formula_to_the_fourth_order(settings, dtype):
    d = l0.HardConcrete(*settings)
    beta, gamma, zeta = settings
    la = torch.linspace(-2, 2, 9, dtype=dtype)
    u = torch.linspace(0.05, 0.95, 7, dtype=dtype)[:, None].expand(7, 9)
    s = torch.sigmoid((torch.logit(u.double()) + la.double()) / beta)
    z = s * (zeta - gamma) + gamma
    slope = s * (1 - s)
    polynomials = [1, 1 - 2 * s, 1 - 6 * slope, (1 - 2 * s) * (1 - 12 * slope)]
    expected = [z.clamp(0, 1)]
    for order, polynomial in enumerate(polynomials, 1):
        of_line = (zeta - gamma) * slope * polynomial / beta**order
        expected.append(torch.where((z > 0) & (z < 1), of_line, 0.0))
    found = d.derivatives(u, la, range(5))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs.to(dtype), rtol=1e-5, atol=1e-6)
    leaf = la.clone().requires_grad_()
    (taught,) = torch.autograd.grad(d.quantile(u, leaf).sum(), leaf)
    torch.testing.assert_close(taught, expected[1].sum(0).to(dtype))


# β times the logit of the farthest gate value from the middle; at 30 the odds leave float32.
SPREAD = math.log(1.5 / 0.01)


@pytest.mark.parametrize(
    ("d", "draw", "tails"),
    [
        (l0.HardConcrete(), "_draw_by_root", "_tails_of_odds"),
        (l0.HardConcrete(0.5), "_draw_by_log", "_tails_of_odds"),
        (l0.HardConcrete(29.9 / SPREAD, -0.5, 1.01), "_draw_by_log", "_tails_of_odds"),
        (l0.HardConcrete(30.1 / SPREAD, -0.5, 1.01), "_draw_by_log", "_tails_of_logit"),
        (l0.HardConcrete(29.9 / SPREAD, -0.01, 1.5), "_draw_by_log", "_tails_of_odds"),
        (l0.HardConcrete(30.1 / SPREAD, -0.01, 1.5), "_draw_by_log", "_tails_of_logit"),
    ],
    ids=str,
)
def test_a_gate_is_computed_by_the_cheapest_formulas_that_its_settings_allow(d, draw, tails):
    assert (d.formula.draw.__name__, d.formula.tails.__name__) == (draw, tails)


@pytest.mark.parametrize(
    ("d", "lowest", "highest"),
    [
        (l0.HardConcrete(), -85.0, 85.0),
        (l0.HardConcrete(0.5), -85.0, 85.0),
        # Here the limit is one of β log(-γ/ζ) - log α.
        (l0.HardConcrete(30.0, -0.5, 1.5), -80.0 - 30 * math.log(3), 80.0 - 30 * math.log(3)),
    ],
    ids=str,
)
def test_a_tail_keeps_its_last_number_beyond_the_limit_of_its_exponent(d, lowest, highest):
    def tail(function, la):
        return function(torch.tensor(la, dtype=torch.float64)).item()

    opened, closed = d.prob_nonzero, partial(d.cdf, 0.0)
    assert tail(opened, lowest + 0.5) > tail(opened, lowest - 0.1) > 0.0
    assert tail(opened, lowest - 0.1) == tail(opened, lowest - 0.9)
    assert tail(closed, highest - 0.5) > tail(closed, highest + 0.1) > 0.0
    assert tail(closed, highest + 0.1) == tail(closed, highest + 0.9)


def test_a_temperature_whose_odds_no_float_holds_has_its_moments_too():
    d, la = (
        l0.HardConcrete(30.0, -0.5, 1.5),
        torch.tensor([-8.0, 0.0, 3.0], dtype=torch.float64, requires_grad=True),
    )
    mean, variance = d.mean_and_variance(la)
    second = torch.tensor([oracles.moment(d, at, 2) for at in la.tolist()], dtype=torch.float64)
    torch.testing.assert_close(
        mean, torch.tensor([oracles.moment(d, at, 1) for at in la.tolist()], dtype=torch.float64)
    )
    torch.testing.assert_close(variance, second - mean.detach() ** 2)
    step = 1e-5
    difference = (d.variance(la.detach() + step) - d.variance(la.detach() - step)) / (2 * step)
    torch.testing.assert_close(
        torch.autograd.grad(variance.sum(), la)[0], difference, rtol=1e-5, atol=1e-9
    )
