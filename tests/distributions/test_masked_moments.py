"""Mean and variance of a weight times its gate, under every transform of torch."""

from __future__ import annotations

import itertools

import pytest
import torch
from sampled import one_in, sampled
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jvp, vmap

import l0func as l0
from l0func.distributions.masked_moments import masked_moments

DISTRIBUTIONS = [l0.HardConcrete(), l0.GaussianGate(), l0.BernoulliGate()]
every = pytest.mark.parametrize("d", DISTRIBUTIONS, ids=repr)


def written(d: l0.HardConcrete, la: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """The definition, from the gates' own moments."""
    mean, variance = d.mean_and_variance(la)
    return w * mean, w**2 * variance


def loss_of(moments, d):
    """A loss with a gradient in both results, of locations and weights."""

    def loss(la: Tensor, w: Tensor) -> Tensor:
        mean, variance = moments(d, la, w)
        return (mean.sin() + variance.exp() * mean).sum()

    return loss


def tensors(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=dtype) for shape in shapes]


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_those_of_the_definition(d, dtype):
    la, w = tensors((3, 300), (3, 300), dtype=dtype)
    torch.testing.assert_close(masked_moments(d, la, w), written(d, la, w))
    found = grad(loss_of(masked_moments, d), (0, 1))(la, w)
    torch.testing.assert_close(found, grad(loss_of(written, d), (0, 1))(la, w))


@pytest.mark.parametrize("d", sampled(DISTRIBUTIONS, one_in(3)), ids=repr)
def test_torch_finds_the_gradients_right_in_both_modes_and_twice(d):
    la, w = (t.requires_grad_() for t in tensors((2, 3), (2, 3)))

    def moments(la: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        return masked_moments(d, la, w)

    assert torch.autograd.gradcheck(moments, (la, w), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(moments, (la, w))
    row = la[0].detach().requires_grad_()
    assert torch.autograd.gradcheck(moments, (row, w), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(moments, (row, w))


@every
def test_derivatives_of_functions_nest(d):
    la, w = tensors((3,), (3,))
    ours, theirs = loss_of(masked_moments, d), loss_of(written, d)
    moved = (torch.ones(3, dtype=torch.float64), w)
    torch.testing.assert_close(jvp(ours, (la, w), moved), jvp(theirs, (la, w), moved))
    torch.testing.assert_close(hessian(ours)(la, w), hessian(theirs)(la, w))
    second = jacfwd(jacfwd(ours, 1), 0)(la, w)
    torch.testing.assert_close(second, jacfwd(jacfwd(theirs, 1), 0)(la, w))


@pytest.mark.parametrize("dims", [(0, 0), (0, None), (None, 0), (1, 0), (None, 2)], ids=str)
def test_vmap_is_a_loop(dims):
    d = l0.HardConcrete()
    la_dim, w_dim = dims
    pair = [torch.randn(4, 4, 4) if dim is not None else torch.randn(4, 4) for dim in dims]
    slopes = grad(loss_of(masked_moments, d), (0, 1))

    def own(t: Tensor, dim: int | None, i: int) -> Tensor:
        return t if dim is None else t.select(dim, i)

    looped = [slopes(own(pair[0], la_dim, i), own(pair[1], w_dim, i)) for i in range(4)]
    for found, single in zip(vmap(slopes, dims)(*pair), zip(*looped, strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(single))


@pytest.mark.parametrize(
    ("dims", "shapes"), [((0, None), ((4, 3), (2, 3))), ((None, 0), ((2, 3), (4, 3)))], ids=str
)
def test_vmap_over_tensors_of_unequal_ranks_is_a_loop(dims, shapes):
    d, pair = l0.HardConcrete(), tensors(*shapes)
    looped: list[tuple[Tensor, Tensor]] = []
    for i in range(4):
        row = [t if dim is None else t[i] for t, dim in zip(pair, dims, strict=True)]
        looped.append(masked_moments(d, *row))
    found = vmap(lambda la, w: masked_moments(d, la, w), dims)(*pair)
    for ours, single in zip(found, zip(*looped, strict=True), strict=True):
        assert torch.equal(ours, torch.stack(single))


@pytest.mark.parametrize("dims", list(itertools.product([0, None], repeat=2))[:3], ids=str)
def test_gradients_through_vmap_are_sums_over_what_is_shared(dims):
    d = l0.HardConcrete()
    pair = tensors(*[(4, 3) if dim is not None else (3,) for dim in dims])

    def total(moments):
        return lambda la, w: vmap(loss_of(moments, d), dims)(la, w).sum()

    found = grad(total(masked_moments), (0, 1))(*pair)
    torch.testing.assert_close(found, grad(total(written), (0, 1))(*pair))


def test_the_backward_pass_keeps_locations_and_weights_and_no_other_tensor():
    if getattr(l0.HardConcrete(), "formula", None) is None:
        pytest.skip("without a formula, torch records the operations")
    kept: list[Tensor] = []
    la, w = (t.requires_grad_() for t in tensors((5, 7), (5, 7)))

    def keep(t: Tensor) -> Tensor:
        kept.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        masked_moments(l0.HardConcrete(), la, w)
    assert [t.data_ptr() for t in kept] == [la.data_ptr(), w.data_ptr()]


def test_one_gradient_alone_and_empty_weights():
    d = l0.HardConcrete()
    la, w = (t.requires_grad_() for t in tensors((3,), (3,)))
    [found] = torch.autograd.grad(masked_moments(d, la, w)[1].sum(), la)
    [wanted] = torch.autograd.grad(written(d, la, w)[1].sum(), la)
    torch.testing.assert_close(found, wanted)
    mean, variance = masked_moments(d, torch.empty(0, 3), torch.empty(0, 3))
    assert mean.shape == variance.shape == (0, 3)
