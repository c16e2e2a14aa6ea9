"""The moments of gated weights, and all their derivatives, equal recorded products."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from l0func.engine.ops.weight_moments import weight_moments


def recorded(weight: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    return weight * mean, weight * weight * variance


def total(function, *arguments: Tensor) -> Tensor:
    first, second = function(*arguments)
    return (first.sin() + second.cos()).sum()


ARGUMENTS = [torch.randn(3, 2, dtype=torch.float64) for _ in range(3)]
ALL = (0, 1, 2)


def both(derivative, *arguments: Tensor) -> None:
    """Check a derivative of both functions."""
    found = derivative(lambda *own: total(weight_moments, *own))(*arguments)
    wanted = derivative(lambda *own: total(recorded, *own))(*arguments)
    torch.testing.assert_close(found, wanted)


def test_the_moments_are_the_products():
    torch.testing.assert_close(weight_moments(*ARGUMENTS), recorded(*ARGUMENTS), rtol=0, atol=0)


@pytest.mark.parametrize(
    "derivative",
    [
        lambda f: torch.func.grad(f, ALL),
        lambda f: torch.func.jacfwd(f, ALL),
        lambda f: torch.func.hessian(f, ALL),
        lambda f: torch.func.jacrev(torch.func.grad(f, ALL), ALL),
        lambda f: torch.func.jacfwd(torch.func.jacfwd(f, ALL), ALL),
    ],
    ids=["grad", "jacfwd", "hessian", "jacrev of grad", "jacfwd of jacfwd"],
)
def test_a_derivative_is_that_of_the_products(derivative):
    both(derivative, *ARGUMENTS)


@pytest.mark.parametrize("dims", [(0, 0, 0), (1, None, None), (None, 0, None), (None, None, 1)])
def test_a_mapped_gradient_is_that_of_the_products(dims):
    arguments: list[Tensor] = []
    for x, dim in zip(ARGUMENTS, dims, strict=True):
        arguments.append(x if dim is None else torch.stack([x, 2 * x], dim))
    both(lambda f: torch.vmap(torch.func.grad(f, ALL), dims), *arguments)
    both(lambda f: torch.func.grad(lambda *own: torch.vmap(f, dims)(*own).sum(), ALL), *arguments)


def test_autograd_differentiates_the_gradient_again():
    arguments = [x.clone().requires_grad_() for x in ARGUMENTS]
    assert torch.autograd.gradcheck(weight_moments, arguments)
    assert torch.autograd.gradgradcheck(weight_moments, arguments)
