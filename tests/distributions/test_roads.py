"""The roads of a draw: numba's kernels and torch give the same gates, under every transform."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from device import RELEASE
from test_custom import GATE
from test_distributions import CASES
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import l0func as l0
from l0func import random
from l0func.kernels import backends, by_torch
from l0func.kernels.choice import chosen
from l0func.kernels.loading import load_kernels

every = pytest.mark.parametrize("d", [*CASES, GATE], ids=repr)
every_formula = pytest.mark.parametrize("d", CASES, ids=repr)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


@pytest.fixture(params=["eager", "auto"])
def road(request):
    before = chosen()
    l0.use_kernel(request.param)
    yield request.param
    l0.use_kernel(before)


@pytest.fixture
def numba_road():
    if load_kernels("numba").kernels is None:
        pytest.skip("numba is not installed")
    before = chosen()
    l0.use_kernel("auto")
    yield
    l0.use_kernel(before)


def atoms_that_differ(
    d: l0.GateDistribution, dtype: torch.dtype, number: int, seed: int = 7
) -> Tensor:
    """How often one road alone draws 0, and 1; values and slopes are equal to rounding."""
    assert d.formula is not None
    la = torch.linspace(-4, 4, number // 4, dtype=dtype)[None]
    keys = random.split(random.key(seed), 4)
    ours = backends.kernels_for(la).draw(d.formula, la, keys, 3)
    theirs = by_torch.draw(d.formula, la, keys, 3)
    counts = []
    for atom in (0.0, 1.0):
        different = (ours[0] == atom) != (theirs[0] == atom)
        counts.append(different.sum())
        # There a slope is 0 on one road alone.
        ours[1][different] = theirs[1][different]
    tolerance = 2e-5 if dtype == torch.float32 else 1e-12
    if not isinstance(d, l0.BernoulliGate):
        torch.testing.assert_close(ours[0], theirs[0], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(ours[1], theirs[1], rtol=10 * tolerance, atol=tolerance)
    return torch.stack(counts)


def share_that_may_differ(d: l0.GateDistribution) -> float:
    """One draw in ten million."""
    # A stretch of a thousandth leaves a hundred times as many draws one rounding from 1.
    return 1e-5 if getattr(d, "zeta", 2.0) < 1.01 else 1e-7


@every_formula
@dtypes
def test_both_roads_draw_the_same_gates_and_slopes(d, dtype, numba_road):
    number = 1_000_000
    counts = atoms_that_differ(d, dtype, number)
    assert counts.max().item() <= max(1, number * share_that_may_differ(d))


@pytest.mark.slow
@every_formula
def test_both_roads_draw_the_same_gates_a_hundred_million_times(d, numba_road):
    number = 10_000_000
    counts = [atoms_that_differ(d, torch.float32, number, seed) for seed in range(10)]
    assert sum(counts).max().item() <= 10 * number * share_that_may_differ(d)


@every
@pytest.mark.parametrize("first", [0, 1, 6, 4096])
def test_a_draw_is_the_quantile_at_the_keys_uniforms(d, first, road):
    keys, la = random.split(random.key(2), 6).reshape(2, 3, 2), torch.randn(5, 2)
    u = random.uniform(keys, first + 10)[..., first:].reshape(2, 3, 5, 2)
    drawn = d.draws(keys, la, first)
    torch.testing.assert_close(drawn, d.quantile(u, la), rtol=0, atol=5e-7)
    assert torch.equal(d.draws(keys[0, 0], la[0, 0], first), drawn[0, 0, 0, 0])
    assert d.draws(keys, la[:0], first).shape == (2, 3, 0, 2)
    assert d.draws(keys[:0], la, first).shape == (0, 3, 5, 2)


@every
def test_draws_map_over_keys_locations_and_both(d, road):
    keys, la = random.split(random.key(2), 4), torch.randn(4, 5)
    of_keys = torch.vmap(lambda key: d.draws(key, la[0]))(keys)
    assert torch.equal(of_keys, d.draws(keys, la[0]))
    loop = torch.stack([d.draws(keys[0], row) for row in la])
    of_locations = torch.vmap(lambda row: d.draws(keys[0], row))(la)
    assert torch.equal(of_locations, loop)
    turned = torch.vmap(lambda row: d.draws(keys[0], row), in_dims=1, out_dims=1)(la.t())
    assert torch.equal(turned, loop.t())
    pairs = torch.vmap(d.draws)(keys, la)
    one_by_one = [d.draws(key, row) for key, row in zip(keys, la, strict=True)]
    assert torch.equal(pairs, torch.stack(one_by_one))
    product = torch.vmap(lambda row: torch.vmap(lambda key: d.draws(key, row))(keys))(la)
    assert torch.equal(product, torch.stack([d.draws(keys, row) for row in la]))
    inner = torch.vmap(lambda key: torch.vmap(lambda row: d.draws(key, row))(la))(keys)
    assert torch.equal(inner, product.transpose(0, 1))


@every
def test_draws_have_the_slopes_of_the_quantile_to_every_order(d, road):
    keys = random.split(random.key(2), 3)
    la = torch.linspace(-0.5, 0.5, 6, dtype=torch.float64).reshape(2, 3)
    u = random.uniform(keys, (2, 3)).double()

    def slopes(function):
        def total(a: Tensor) -> Tensor:
            return (function(a) * torch.arange(1, 4)[:, None, None]).sum()

        first = torch.func.grad(total)
        second = torch.func.grad(lambda a: first(a).sum())
        forward = torch.func.jvp(function, (la,), (torch.full_like(la, 2.0),))[1]
        mixed = torch.func.jvp(first, (la,), (torch.ones_like(la),))[1]
        leaf = la.clone().requires_grad_()
        (once,) = torch.autograd.grad(total(leaf), leaf, create_graph=True)
        (twice,) = torch.autograd.grad(once.sum(), leaf)
        return first(la), second(la), forward, mixed, once, twice

    ours, theirs = slopes(lambda a: d.draws(keys, a)), slopes(lambda a: d.quantile(u, a))
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-11)
    mapped = torch.vmap(torch.func.grad(lambda a, key: d.draws(key, a).sum()), (None, 0))(la, keys)
    whole = [torch.func.grad(lambda a, key=key: d.draws(key, a).sum())(la) for key in keys]
    torch.testing.assert_close(mapped, torch.stack(whole))


@every_formula
def test_a_nan_among_the_locations_or_probabilities_stays_one(d, road):
    la, u = torch.tensor([0.0, torch.nan, 0.1]), torch.tensor([0.5, 0.5, torch.nan])
    z = d.quantile(u, la)
    assert z[0].isfinite()
    if not isinstance(d, l0.BernoulliGate):
        assert z[1:].isnan().all()
    assert d.draws(random.key(0), la).isnan().tolist() == [False, True, False]
    assert d.prob_nonzero(la).isnan().tolist() == [False, True, False]
    assert d.mean(la).isnan().tolist() == [False, True, False]


@every_formula
@dtypes
def test_infinite_locations_draw_atoms_without_slope(d, dtype, road):
    la = torch.tensor([-torch.inf, -1e30, 1e30, torch.inf], dtype=dtype, requires_grad=True)
    for z in (d.draws(random.key(0), la), d.quantile(torch.tensor(0.4), la)):
        assert z.tolist() == [0.0, 0.0, 1.0, 1.0]
        (slope,) = torch.autograd.grad(z.sum(), la, create_graph=True)
        assert (slope.abs() < 1e-20).all()
        if slope.requires_grad:
            assert torch.autograd.grad(slope.sum(), la)[0].abs().max() < 1e-20


@every_formula
@pytest.mark.parametrize("name", ["mean", "variance", "prob_nonzero", "prob_one"])
def test_torch_takes_no_memory_for_all_gates_at_once_but_for_the_results(d, name):
    largest: dict[str, int] = {}

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and not func.is_view:
                operation = func.overloadpacket.__name__
                largest[operation] = max(largest.get(operation, 0), out.numel())
            return out

    la = torch.linspace(-3, 3, 5 * by_torch.BLOCK)
    before = chosen()
    l0.use_kernel("eager")
    with Sizes():
        getattr(d, name)(la)
    l0.use_kernel(before)
    # The blocks are joined once, and shown in the locations' shape.
    whole = {operation for operation, size in largest.items() if size >= la.numel()}
    assert whole <= {"cat", "_unsafe_view"}
    assert largest["cat"] == la.numel()


def test_a_subclass_takes_the_road_through_torch(road):
    @dataclass(frozen=True)
    class Inverted(l0.HardConcrete):
        def _quantile(self, u: Tensor, log_alpha: Tensor) -> Tensor:
            return super()._quantile(1.0 - u, log_alpha)

    assert l0.HardConcrete().formula is not None
    assert Inverted().formula is None
    assert GATE.formula is None
    la, u = torch.tensor([-0.5, 0.4]), torch.tensor([0.3, 0.4])
    expected = l0.HardConcrete().quantile(1.0 - u, la)
    torch.testing.assert_close(Inverted().quantile(u, la), expected)
    torch.testing.assert_close(Inverted().mean(la), l0.HardConcrete().mean(la))
    torch.testing.assert_close(Inverted().prob_one(la), l0.HardConcrete().prob_one(la))


@dataclass(frozen=True)
class Derived(l0.HardConcrete):
    """An equal gate, whose own hooks torch computes."""


@pytest.mark.skipif(RELEASE < (2, 2), reason="torch 2.1 gives this mode a number for a tensor")
@dtypes
def test_a_subclass_has_its_moments_where_no_tensor_becomes_a_number(dtype):
    d, mode = Derived(1.0, -0.5, 1.5), pytest.importorskip("torch._subclasses").FakeTensorMode
    with mode():
        moments = d.mean_and_variance(torch.zeros(3, dtype=dtype))
    assert [(m.shape, m.dtype) for m in moments] == [((3,), dtype)] * 2


@pytest.mark.parametrize("d", [l0.HardConcrete(), l0.GaussianGate()], ids=repr)
def test_the_third_derivative_of_a_loss_of_moments_is_the_difference_of_the_second(d):
    def loss(la: Tensor) -> Tensor:
        mean, variance = d.mean_and_variance(la)
        return mean.sin() + variance.exp() * mean

    second = torch.func.grad(torch.func.grad(loss))
    la, step = torch.tensor([-0.7, 0.4], dtype=torch.float64), 1e-4
    ahead, behind = (torch.vmap(second)(la + move) for move in (step, -step))
    found = torch.vmap(torch.func.grad(second))(la)
    torch.testing.assert_close(found, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-7)


@pytest.mark.compiles
@pytest.mark.parametrize("kind", [l0.HardConcrete, l0.GaussianGate, l0.HardKuma, l0.BernoulliGate])
def test_a_compiled_function_may_build_a_distribution(kind):
    la, u = torch.linspace(-3, 3, 9), torch.linspace(0.05, 0.95, 9)
    expected = kind().quantile(u, la) + kind().mean(la)

    def built_inside(la, u):
        return kind().quantile(u, la) + kind().mean(la)

    found = torch.compile(built_inside, fullgraph=True, backend="aot_eager")(la, u)
    torch.testing.assert_close(found, expected)
