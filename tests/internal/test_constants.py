"""Kept numbers are plain tensors, whatever mode or transform the first call ran in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, func

from l0func.internal.constants import kept_numbers
from l0func.internal.untyped import untyped

CPU = torch.device("cpu")
Around = Callable[[Callable[[Tensor], Tensor]], Any]
X = torch.ones(3, device=CPU)

AROUND: dict[str, Around] = {
    "nothing": lambda call: call(X),
    "grad": lambda call: func.grad(lambda x: call(x).sum())(X),
    "jvp": lambda call: func.jvp(call, (X,), (X,)),
    "jvp of jvp": lambda call: func.jvp(lambda x: func.jvp(call, (x,), (x,))[1], (X,), (X,)),
    "vjp": lambda call: func.vjp(call, X)[1](X),
    "vmap": lambda call: torch.vmap(call)(X[None]),
    "vmap of grad": lambda call: torch.vmap(func.grad(lambda x: call(x).sum()))(X[None]),
}
MODES: dict[str, Callable[[], Any]] = {
    "no mode": nullcontext,
    "inference": torch.inference_mode,
    "fake": lambda: untyped._subclasses.fake_tensor.FakeTensorMode(allow_non_fake_inputs=True),
}


@pytest.fixture(autouse=True)
def _nothing_kept():
    kept_numbers.cache_clear()


def _product(x: Tensor) -> Tensor:
    return x * kept_numbers((1, 2, 3), torch.int64, CPU)


@pytest.mark.parametrize("later", AROUND)
@pytest.mark.parametrize("first", AROUND)
def test_numbers_kept_in_one_transform_serve_in_another(first, later):
    AROUND[first](_product)
    wanted = AROUND[later](lambda x: x * torch.tensor([1, 2, 3], device=CPU))
    torch.testing.assert_close(AROUND[later](_product), wanted, rtol=0, atol=0)
    assert kept_numbers.cache_info().misses == 1


@pytest.mark.parametrize("mode", MODES)
def test_numbers_kept_in_a_mode_are_plain_tensors(mode):
    with MODES[mode]():
        func.jvp(lambda x: (kept_numbers((1, 2, 3), torch.int64, CPU), x)[1], (X,), (X,))
    kept = kept_numbers((1, 2, 3), torch.int64, CPU)
    assert type(kept) is Tensor
    assert not kept.is_inference()
    assert kept.tolist() == [1, 2, 3]


def test_an_error_inside_leaves_the_transforms_as_they_were():
    def call(x: Tensor) -> Tensor:
        with pytest.raises(ValueError, match="dimensions"):
            kept_numbers(("one",), torch.int64, CPU)
        return x * x

    slopes = func.grad(lambda x: func.jvp(call, (x,), (x,))[1].sum())(X)
    assert torch.equal(slopes, 4 * X)
