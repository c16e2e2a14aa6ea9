"""torch's plain random functions inside a gated call: from the key, and in the right law."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import l0func as l0
from l0func import random

N = 100_000


class Draws(nn.Module):
    """A module that draws; its weight is 1."""

    def __init__(self, draw):
        super().__init__()
        self.weight, self.draw = nn.Parameter(torch.ones(())), draw

    def forward(self, x):
        return self.draw(x * self.weight)


def built(draw):
    fn, params, buffers = l0.make_functional(Draws(draw))
    spec = l0.gate_spec(params, {"*": None})
    return partial(l0.gated(fn, spec), params, {}, buffers)


def drawn(draw, x=None, seed=0):
    """What a gated call under one key draws."""
    return built(draw)(random.key(seed), torch.zeros(N) if x is None else x)


def in_place(name, *args, dtype=torch.float32, **named):
    """A draw that fills a new tensor."""

    def draw(x):
        tensor = x.new_empty(x.shape, dtype=dtype)
        filled = getattr(tensor, name)(*args, **named)
        assert filled is tensor or x.device.type != "cpu"
        return tensor

    return draw


def normal_cdf(x, mean=0.0, std=1.0):
    return 0.5 * (1 + math.erf((x - mean) / std / math.sqrt(2)))


# For each law: a draw, a number, and the probability of at most this number.
LAWS = [
    (in_place("bernoulli_"), 0.0, 0.5),
    (in_place("bernoulli_", 0.2), 0.0, 0.8),
    (in_place("bernoulli_", p=0.2, dtype=torch.int64), 0, 0.8),
    (in_place("bernoulli_", torch.full((N,), 0.7)), 0.0, 0.3),
    (in_place("bernoulli_", torch.tensor(0.7), dtype=torch.bool), 0, 0.3),
    (in_place("uniform_"), 0.3, 0.3),
    (in_place("uniform_", -1.0, 3.0), 0.0, 0.25),
    (in_place("uniform_", **{"from": -1.0, "to": 1.0}), 0.5, 0.75),
    (in_place("uniform_", to=2.0, dtype=torch.float64), 0.5, 0.25),
    (in_place("uniform_", dtype=torch.float16), 0.25, 0.25 + 2**-11),
    (in_place("normal_"), 0.5, normal_cdf(0.5)),
    (in_place("normal_", 1.0, 2.0), 0.0, normal_cdf(0.0, 1.0, 2.0)),
    (in_place("normal_", std=3.0, mean=-1.0), 0.0, normal_cdf(0.0, -1.0, 3.0)),
    (in_place("log_normal_"), math.e, normal_cdf(1.0, 1.0, 2.0)),
    (in_place("log_normal_", 0.0, 0.5), 1.5, normal_cdf(math.log(1.5), 0.0, 0.5)),
    (in_place("exponential_"), 1.0, 1 - math.exp(-1.0)),
    (in_place("exponential_", lambd=0.1), 30.0, 1 - math.exp(-3.0)),
    (in_place("cauchy_"), 1.0, 0.75),
    (in_place("cauchy_", 2.0, 3.0), -1.0, 0.25),
    (in_place("cauchy_", median=2.0, sigma=3.0), 5.0, 0.75),
    (in_place("geometric_", 0.3), 1.0, 0.3),
    (in_place("geometric_", 0.3), 3.0, 1 - 0.7**3),
    (in_place("geometric_", p=0.9, dtype=torch.int32), 1, 0.9),
    (in_place("random_", 4), 0.0, 0.25),
    (in_place("random_", -2, 3, dtype=torch.int64), 0, 0.6),
    (in_place("random_", to=10, dtype=torch.uint8), 6, 0.7),
    (in_place("random_", **{"from": 5, "to": 7}), 5.0, 0.5),
    (in_place("random_", dtype=torch.bool), 0, 0.5),
    (in_place("random_", dtype=torch.uint8), 63, 0.25),
    (in_place("random_", dtype=torch.int64), 2**62, 0.5),
    (in_place("random_"), 2.0**22, 0.25),
    (in_place("random_", 100, None, dtype=torch.int8), 106, 0.25),
    (lambda x: torch.normal(0.0, 2.0, x.shape), 1.0, normal_cdf(0.5)),
    (lambda x: torch.normal(mean=1.0, std=2.0, size=(N,)), 1.0, 0.5),
    (lambda x: torch.normal(x + 1, 2.0), 0.0, normal_cdf(0.0, 1.0, 2.0)),
    (lambda x: torch.normal(x, torch.tensor(2.0)), 1.0, normal_cdf(0.5)),
    (lambda x: torch.normal(1.0, x + 2), 0.0, normal_cdf(0.0, 1.0, 2.0)),
    (lambda x: torch.randint(4, x.shape), 0, 0.25),
    (lambda x: torch.randint(-2, 3, (N,)), 0, 0.6),
    (lambda x: torch.randint(low=1, high=5, size=(N,)), 2, 0.5),
    (lambda x: torch.randint_like(x, 4), 0.0, 0.25),
    (lambda x: torch.randint_like(x, low=1, high=5), 2.0, 0.5),
    (lambda x: torch.multinomial(torch.tensor([1.0, 0.0, 3.0]), N, True), 0, 0.25),
    (lambda x: torch.tensor([[1.0, 3.0]]).expand(N, 2).multinomial(1)[:, 0], 0, 0.25),
    (lambda x: torch.rand(size=(N,)), 0.3, 0.3),
    (lambda x: torch.rand(torch.tensor(N)), 0.3, 0.3),
    (lambda x: torch.rand(N, out=torch.empty(N)), 0.3, 0.3),
    (lambda x: torch.bernoulli(x + 0.2, out=torch.empty(N)), 0.0, 0.8),
    (lambda x: torch.bernoulli(x, 0.2), 0.0, 0.8),
    (lambda x: nn.init.uniform_(torch.empty(N), -1.0, 1.0), 0.0, 0.5),
    (lambda x: nn.init.normal_(torch.empty(N), 1.0, 2.0), 0.0, normal_cdf(0.0, 1.0, 2.0)),
    (lambda x: nn.init.xavier_uniform_(torch.empty(N, 1)).flatten(), 0.0, 0.5),
    (lambda x: torch.distributions.Exponential(2.0).sample((N,)), 0.5, 1 - math.exp(-1.0)),
    (lambda x: torch.distributions.Categorical(torch.tensor([1.0, 3.0])).sample((N,)), 0, 0.25),
]
IDS = [f"law {i}" for i in range(len(LAWS))]


@pytest.mark.parametrize(("draw", "number", "probability"), LAWS, ids=IDS)
def test_a_draw_has_the_law_that_torch_documents(draw, number, probability):
    share = (drawn(draw).double() <= number).double().mean().item()
    error = math.sqrt(probability * (1 - probability) / N)
    assert abs(share - probability) < 5 * error


@pytest.mark.parametrize(("draw", "number", "probability"), LAWS, ids=IDS)
def test_a_draw_is_a_function_of_the_key(draw, number, probability):
    state = torch.get_rng_state()
    first = drawn(draw)
    assert torch.equal(first, drawn(draw))
    assert not torch.equal(first, drawn(draw, seed=1))
    assert torch.equal(torch.get_rng_state(), state)


def test_two_draws_in_one_call_are_independent():
    a, b = drawn(lambda x: (x.new_empty(N).normal_(), x.new_empty(N).normal_()))
    assert abs(torch.dot(a, b).item()) / math.sqrt(N) < 5


@pytest.mark.parametrize(
    ("draw", "mean", "variance"),
    [
        (in_place("uniform_", 1.0, 4.0), 2.5, 9 / 12),
        (in_place("normal_", 1.0, 4.0), 1.0, 16.0),
        (in_place("exponential_", 0.5), 2.0, 4.0),
        (in_place("geometric_", 0.25), 4.0, 12.0),
        (in_place("bernoulli_", 0.3), 0.3, 0.21),
        (in_place("log_normal_", 0.0, 0.25), math.exp(1 / 32), None),
    ],
)
def test_a_draw_has_the_mean_and_variance_of_its_law(draw, mean, variance):
    values = drawn(draw).double()
    assert abs(values.mean().item() - mean) < 5 * (values.var().item() / N) ** 0.5
    if variance is not None:
        fourth = ((values - mean) ** 4).mean().item()
        assert abs(values.var().item() - variance) < 5 * (fourth / N) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_uniform_draws_stay_below_one_in_every_type(dtype):
    for draw in (in_place("uniform_", dtype=dtype), lambda x: torch.rand(N, dtype=dtype)):
        values = drawn(draw)
        assert values.dtype == dtype
        assert 0.0 <= values.min() < values.max() < 1.0


def test_complex_normal_draws_have_two_independent_parts():
    for draw in (
        in_place("normal_", 0.0, 2.0, dtype=torch.complex64),
        lambda x: 2 * torch.randn(N, dtype=torch.complex64),
        lambda x: 2 * torch.randn_like(x, dtype=torch.complex64),
    ):
        values = drawn(draw)
        assert abs(values.real.var().item() - 2.0) < 0.05
        assert abs(values.imag.var().item() - 2.0) < 0.05
        assert abs((values.real * values.imag).mean().item()) < 0.05


def test_a_permutation_is_one_and_all_are_equally_likely():
    rows = drawn(lambda x: torch.stack([torch.randperm(3) for _ in range(600)]))
    assert torch.equal(rows.sort(1).values, torch.arange(3).expand(600, 3))
    numbers = (rows * torch.tensor([9, 3, 1])).sum(1)
    counts = numbers.unique(return_counts=True)[1]
    assert len(counts) == 6
    assert ((counts - 100).abs() < 5 * (600 * 5 / 36) ** 0.5).all()


def test_categories_without_replacement_come_in_the_order_of_successive_draws():
    weights = torch.tensor([1.0, 2.0, 3.0, 0.0])
    pairs = drawn(lambda x: torch.multinomial(weights.expand(N, 4), 2))
    for first, second in ((0, 1), (1, 2), (2, 0)):
        share = ((pairs[:, 0] == first) & (pairs[:, 1] == second)).double().mean().item()
        p = weights / 6
        wanted = (p[first] * p[second] / (1 - p[first])).item()
        assert abs(share - wanted) < 5 * math.sqrt(wanted * (1 - wanted) / N)
    assert (pairs != 3).all()
    assert (pairs[:, 0] != pairs[:, 1]).all()


def test_no_gradient_flows_into_a_probability_or_through_a_written_tensor():
    p, x = torch.tensor(0.5, requires_grad=True), torch.ones(4, requires_grad=True)
    y = built(lambda x: (x * 1.0).bernoulli_(p))(random.key(0), x)
    assert y.requires_grad
    y.sum().backward()
    assert p.grad is None
    assert torch.equal(x.grad, torch.zeros(4))


def test_a_leaf_that_requires_grad_is_not_written():
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        built(lambda x: torch.ones(3, requires_grad=True).normal_())(random.key(0), torch.ones(1))


def test_out_is_written_and_returned():
    kept = torch.empty(0)
    for draw in (
        lambda x: torch.rand(3, out=kept),
        lambda x: torch.normal(x, 1.0, out=kept),
        lambda x: torch.bernoulli(x + 0.5, out=kept),
    ):
        assert drawn(draw, torch.zeros(3)) is kept
        assert kept.shape == (3,)


def test_a_draw_may_require_grad():
    assert drawn(lambda x: torch.randn(3, requires_grad=True)).requires_grad


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            in_place("bernoulli_", 1.5),
            r"'bernoulli_' takes a probability .*; got 1.5",
        ),
        (in_place("uniform_", 1.0, 0.0), r"'uniform_' takes from <= to; got from=1.0 and to=0.0"),
        (in_place("normal_", 0.0, -1.0), r"'normal_' takes std >= 0; got -1.0"),
        (in_place("log_normal_", 0.0, 0.0), r"'log_normal_' takes std > 0; got 0.0"),
        (in_place("exponential_", 0.0), r"'exponential_' takes lambd > 0; got 0.0"),
        (in_place("cauchy_", 0.0, 0.0), r"'cauchy_' takes sigma > 0; got 0.0"),
        (in_place("geometric_", 1.0), r"'geometric_' takes a probability .* exclusive; got 1.0"),
        (in_place("random_", 3, 3), r"'random_' takes from < to; got from=3 and to=3"),
        (
            in_place("normal_", dtype=torch.int64),
            r"'normal_' draws floating numbers",
        ),
        (lambda x: torch.randint(3, 3, (2,)), r"'randint' takes low < high; got low=3 and high=3"),
        (lambda x: torch.multinomial(torch.ones(2), 3), r"num_samples=3 for 2"),
        (lambda x: torch.multinomial(torch.zeros(2), 1), r"at least 1 of them positive"),
    ],
)
def test_arguments_outside_of_a_law_are_refused_by_name(draw, message):
    with pytest.raises(ValueError, match=message):
        drawn(draw)


@pytest.mark.parametrize(
    "draw",
    [in_place("bernoulli_", 0.5), in_place("normal_"), lambda x: torch.randint(9, (1,))],
)
def test_a_plain_call_has_no_key_for_a_draw(draw):
    fn, params, buffers = l0.make_functional(Draws(draw))
    with pytest.raises(ValueError, match="is random, and there is no key to draw from"):
        fn(params, buffers, torch.ones(3))


# A row has its own draws.


def rows(draw, x, seed=0):
    fn, params, buffers = l0.make_functional(Draws(draw))
    spec = l0.gate_spec(params, {"*": None})
    keys = random.split(random.key(seed), x.shape[0])
    apply = l0.gated(fn, spec)
    mapped = l0.per_example(apply)(params, {}, buffers, keys, x)
    one_by_one = [
        apply(params, {}, buffers, key, row[None]) for key, row in zip(keys, x, strict=True)
    ]
    return mapped, torch.cat(one_by_one)


ROW_DRAWS = [
    lambda x: x.new_empty(x.shape).bernoulli_(0.5),
    lambda x: x.new_empty(x.shape).bernoulli_(torch.sigmoid(x)),
    lambda x: x.new_empty(x.shape).uniform_(-1, 1),
    lambda x: x.new_empty(x.shape).normal_(1, 2),
    lambda x: x.new_empty(x.shape).log_normal_(),
    lambda x: x.new_empty(x.shape).exponential_(2),
    lambda x: x.new_empty(x.shape).cauchy_(),
    lambda x: x.new_empty(x.shape).geometric_(0.1),
    lambda x: x.new_empty(x.shape).random_(1000),
    lambda x: torch.empty_like(x).normal_(),
    lambda x: x.clone().normal_(),
    lambda x: torch.normal(x, 1.0),
    lambda x: torch.randint(1000, x.shape),
    lambda x: torch.randint_like(x, 1000),
    lambda x: torch.randperm(5)[None],
    lambda x: torch.multinomial(torch.sigmoid(x), 2),
    lambda x: torch.multinomial(torch.sigmoid(x), 4, True),
]


@pytest.mark.parametrize("draw", ROW_DRAWS)
def test_a_row_draws_what_it_draws_alone(draw):
    mapped, alone = rows(draw, random.normal(random.key(4), (6, 8)))
    assert_close(mapped, alone)
    assert len(mapped.unique(dim=0)) > 1


def test_a_tensor_that_all_rows_share_is_not_written():
    shared = torch.empty(1, 8)
    with pytest.raises(ValueError, match=r"'normal_' draws for each row .* x.new_empty\(shape\)"):
        rows(lambda x: shared.normal_(), torch.ones(3, 8))
