"""A function never reads the module that it was made from: it binds, or refuses by name."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from comparing import close
from holding import BOUND, Net
from holding_originals import REFUSED
from torch import Tensor

import l0func as l0

X = torch.linspace(-1, 1, 6).reshape(2, 3)
refused = pytest.mark.parametrize(("tensor", "way", "place"), REFUSED.values(), ids=list(REFUSED))
bound = pytest.mark.parametrize("place", BOUND.values(), ids=list(BOUND))


def zeros(params: dict[str, Tensor]) -> dict[str, Tensor]:
    return {path: torch.zeros_like(p) for path, p in params.items()}


@bound
def test_what_a_place_holds_is_the_calls_own(place: Any):
    torch.manual_seed(0)
    net = Net(place)
    fn, params, buffers = l0.make_functional(net)
    assert not any("_orig_mod" in path for path in params)
    close(fn(params, buffers, X), net(X))
    assert not fn(zeros(params), buffers, X).any()
    double = {path: 2 * p for path, p in params.items()}
    copy = fn.module(double, buffers)
    close(copy(X), fn(double, buffers, X))
    assert not fn.module(zeros(params), buffers)(X).any()


@refused
def test_what_no_place_can_hold_is_refused_by_name(tensor: str, way: str, place: Any):
    net = Net(place)
    fn, params, buffers = l0.make_functional(net)
    with pytest.raises(ValueError, match=rf"reads '{tensor}' of the module .*{re.escape(way)}"):
        fn(params, buffers, X)
    before = net.scale.clone()
    with pytest.raises(ValueError, match=f"reads '{tensor}' of the module"):
        fn(zeros(params), buffers, X)
    assert torch.equal(net.scale, before)
