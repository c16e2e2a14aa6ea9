"""A step out of vmap: the same values and gradients as torch's own rules, with whole batches."""

from __future__ import annotations

import pytest
import torch
from device import seeded_generator
from torch import Tensor

from l0func import random
from l0func.internal.below_vmap import below_vmap, by_rule


def product(x: Tensor, y: Tensor) -> Tensor:
    return below_vmap(lambda a, b: [a * b.sin()], x, y)[0]


def plain(x: Tensor, y: Tensor) -> Tensor:
    return x * y.sin()


DIMS = [(0, None), (None, 0), (0, 0), (1, 0), (1, None)]


def argument(*dims: int | None) -> Tensor:
    """Rows of shape (4,), mapped along these dimensions, the innermost map first."""
    shape = [4]
    for size, dim in zip((3, 2), dims, strict=False):
        if dim is not None:
            shape.insert(dim, size)
    return torch.randn(shape)


@pytest.mark.parametrize("dims", DIMS)
def test_a_mapped_function_gives_what_torchs_own_rules_give(dims):
    x, y = argument(dims[0]), argument(dims[1])
    wanted = torch.vmap(plain, dims)(x, y)
    assert torch.equal(torch.vmap(product, dims)(x, y), wanted)


@pytest.mark.parametrize("inner", DIMS)
@pytest.mark.parametrize("outer", DIMS)
def test_two_maps_give_what_torchs_own_rules_give(inner, outer):
    x, y = argument(inner[0], outer[0]), argument(inner[1], outer[1])

    def nested(function):
        return torch.vmap(torch.vmap(function, inner), outer)(x, y)

    assert torch.equal(nested(product), nested(plain))


@pytest.mark.parametrize("dims", DIMS)
def test_torch_func_grad_around_or_inside_a_map_gives_what_torchs_own_rules_give(dims):
    x, y = argument(dims[0]), argument(dims[1])

    def around(function):
        def total(x, y):
            return torch.vmap(function, dims)(x, y).sum()

        return torch.func.grad(total, (0, 1))(x, y)

    def inside(function):
        def total(x, y):
            return function(x, y).sum()

        return torch.vmap(torch.func.grad(total, (0, 1)), dims)(x, y)

    torch.testing.assert_close(around(product), around(plain))
    torch.testing.assert_close(inside(product), inside(plain))


def test_the_function_sees_the_whole_batch():
    shapes: list[torch.Size] = []

    def look(x: Tensor) -> list[Tensor]:
        shapes.append(x.shape)
        return [x]

    torch.vmap(lambda x: below_vmap(look, x)[0])(torch.zeros(5, 2))
    assert shapes == [(5, 2)]


def test_the_map_goes_on_after_an_error_in_the_function():
    def fail(x: Tensor) -> list[Tensor]:
        raise ValueError("no")

    def row(x: Tensor) -> Tensor:
        with pytest.raises(ValueError, match="no"):
            below_vmap(fail, x)
        return x.sum()

    assert torch.equal(torch.vmap(row)(torch.ones(4, 2)), torch.full((4,), 2.0))


@pytest.mark.parametrize("numbers", [torch.tensor(3), torch.arange(2), torch.arange(6).view(3, 2)])
def test_keys_fold_numbers_of_any_rank_under_a_map_as_outside_of_it(numbers):
    keys = random.split(random.key(0), 4)
    wanted = torch.stack([random.fold_in(key, numbers) for key in keys])
    assert torch.equal(torch.vmap(lambda key: random.fold_in(key, numbers))(keys), wanted)


def test_mapped_numbers_fold_into_one_key_or_into_mapped_keys():
    keys, numbers = random.split(random.key(0), 4), torch.arange(4)
    wanted = torch.stack([random.fold_in(keys[0], n) for n in numbers])
    assert torch.equal(torch.vmap(random.fold_in, (None, 0))(keys[0], numbers), wanted)
    own = torch.stack([random.fold_in(keys[i], numbers[i]) for i in range(4)])
    assert torch.equal(torch.vmap(random.fold_in)(keys, numbers), own)


def products(x: Tensor, w: Tensor, nothing: None) -> list[Tensor]:
    assert nothing is None
    return [x @ w, x + 1.0]


def by_hand(size: int, dims, x: Tensor, w: Tensor, nothing: None) -> list[Tensor]:
    """A rule for vmap that runs the rows one after another."""
    cut = [
        [t] * size if dim is None else t.unbind(dim)
        for t, dim in zip((x, w), dims[:2], strict=True)
    ]
    rows = [by_rule(products, by_hand, *row, nothing) for row in zip(*cut, strict=True)]
    return [torch.stack(each) for each in zip(*rows, strict=True)]


@pytest.mark.parametrize("dims", [(0, None), (None, 1), (1, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("outer", [None, (0, None), (None, 0), (1, 1)], ids=str)
def test_a_rule_gets_the_batch_of_every_vmap_and_none_stays_none(dims, outer):
    generator = seeded_generator(0)
    sizes = [(3, 3, 3), (3, 3, 3)] if outer else [(3, 3), (3, 3)]
    ranks = [2 - (dim is None) for dim in dims]
    shapes = []
    for size, rank, dim in zip(sizes, ranks, outer or (0, 0), strict=True):
        shapes.append(size[: rank + (outer is not None and dim is not None)])
    x, w = [torch.randn(shape, generator=generator) for shape in shapes]

    def mapped(function):
        inner = torch.vmap(function, dims)
        return inner if outer is None else torch.vmap(inner, outer)

    ours = mapped(lambda x, w: tuple(by_rule(products, by_hand, x, w, None)))(x, w)
    wanted = mapped(lambda x, w: tuple(products(x, w, None)))(x, w)
    for mine, theirs in zip(ours, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)
