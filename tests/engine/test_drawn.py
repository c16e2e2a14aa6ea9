"""Every function that draws: from the key alone, in the law of torch, refused without a key."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import steps
import torch
from drawn import DRAWS, assert_same_law
from page_of_operations import page
from torch.nn import functional as F

import l0func as l0

# torch 2.1's note on trunc_normal_ in rows: vmap loops over clamp_.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")

FUNCTIONS: dict[str, Any] = page.FUNCTIONS["draws"]


def step(label: str) -> steps.Step:
    return lambda h: DRAWS[label](FUNCTIONS[label], h)


def makes_matrices_of_rows() -> bool:
    """Whether this torch's vmap runs Tensor.new, which orthogonal_ calls in torch 2.1."""
    try:
        torch.vmap(lambda row: row.new(2, 2))(torch.ones(2))
    except RuntimeError:
        return False
    return True


def test_every_function_that_draws_has_a_case():
    assert DRAWS.keys() == FUNCTIONS.keys()


@pytest.mark.parametrize("label", FUNCTIONS)
def test_a_draw_is_a_function_of_the_key_and_of_the_law_of_torch(label):
    state = torch.get_rng_state()
    keys = steps.KEYS
    first, again = steps.one_by_one(step(label), keys), steps.one_by_one(step(label), keys)
    other = steps.one_by_one(step(label), l0.random.split(l0.random.key(2), 3))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])
    if label != "init: orthogonal_" or makes_matrices_of_rows():
        torch.testing.assert_close(steps.in_rows(step(label)), first)
    torch.manual_seed(0)
    plain = steps.in_plain_torch(step(label))
    assert (first.shape, first.dtype) == (plain.shape, plain.dtype)
    assert_same_law(first, plain)


# Where a mask of shape (3, 20, 20, 4, 4), or a smaller one that spreads, may be shared.
SHARED = {"rows": (0,), "channels": (1,), "places": (2, 3), "one dimension of places": (3,)}


@pytest.mark.parametrize("shared", SHARED.values(), ids=SHARED.keys())
@pytest.mark.parametrize("law", [F.dropout, F.alpha_dropout], ids=lambda f: f.__name__)
def test_a_mask_that_is_shared_along_a_dimension_is_of_another_law(law, shared):
    torch.manual_seed(1)
    x = torch.full((3, 20, 20, 4, 4), 1.7)
    dims = [dim + 1 for dim in shared]
    size = [1 if dim in dims else n for dim, n in enumerate(x.shape)]
    of_shared = law(torch.full(size, 1.7), 0.4, True).expand(x.shape)
    assert_same_law(law(x, 0.4, True), law(x, 0.4, True))
    for one, other in itertools.permutations([of_shared, law(x, 0.4, True)]):
        with pytest.raises(AssertionError):
            assert_same_law(one, other)


@pytest.mark.parametrize("label", FUNCTIONS)
def test_a_draw_without_a_key_is_refused_by_name(label):
    fn, params, buffers = l0.make_functional(steps.Around(step(label)))
    with pytest.raises(ValueError, match=r"'\w+' is random, and there is no key") as refusal:
        fn(params, buffers, steps.inputs()[:1])
    with steps.Names() as names:
        step(label)(steps.hidden(steps.inputs()[:1]))
    assert any(f"'{name}'" in str(refusal.value) for name in names.seen)
