"""Every function that draws: from the key alone, in the law of torch, refused without a key."""

from __future__ import annotations

from typing import Any

import pytest
import steps
import torch
from drawn import DRAWS
from page_of_operations import page

import l0func as l0

FUNCTIONS: dict[str, Any] = page.FUNCTIONS["draws"]


def step(label: str) -> steps.Step:
    return lambda h: DRAWS[label](FUNCTIONS[label], h)


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
    torch.testing.assert_close(steps.in_rows(step(label)), first)
    torch.manual_seed(0)
    plain = steps.in_plain_torch(step(label))
    assert (first.shape, first.dtype) == (plain.shape, plain.dtype)
    # Means of squeezed values: of Cauchy draws too. A dropped channel has 50 values.
    a, b = (t.double().div(1 + t.double().abs()) for t in (first, plain))
    by_channel = a.flatten(0, -2).mean(-1).std() if a.dim() > 1 else a.std()
    error = by_channel * (2 / a.shape[-2] / 3) ** 0.5 + a.std() * (2 / a.numel()) ** 0.5
    assert (a.mean() - b.mean()).abs() <= 5 * error


@pytest.mark.parametrize("label", FUNCTIONS)
def test_a_draw_without_a_key_is_refused_by_name(label):
    fn, params, buffers = l0.make_functional(steps.Around(step(label)))
    with pytest.raises(ValueError, match=r"'\w+' is random, and there is no key") as refusal:
        fn(params, buffers, steps.inputs()[:1])
    with steps.Names() as names:
        step(label)(steps.hidden(steps.inputs()[:1]))
    assert any(f"'{name}'" in str(refusal.value) for name in names.seen)
