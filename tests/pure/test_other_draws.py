"""A forward that draws by Python's or numpy's global generator is named once, at the call."""

from __future__ import annotations

import random
import warnings
from itertools import count

import numpy as np
import pytest
import torch
from torch import nn

import l0func as l0

X = l0.random.normal(l0.random.key(1), (5, 4))


class LayerDrop(nn.Module):
    """A block that is left out by chance."""

    def __init__(self, draw):
        super().__init__()
        self.a, self.draw = nn.Linear(4, 4), draw

    def forward(self, x):
        return x + self.a(x) if self.draw() else x


DRAWS = {
    "random": lambda: random.random() < 0.5,
    "choice": lambda: random.choice([True, False]),
    "gauss": lambda: random.gauss(0.0, 1.0) > 0,
    "rand": lambda: np.random.rand() < 0.5,  # noqa: NPY002
    "permutation": lambda: np.random.permutation(4)[0] > 1,  # noqa: NPY002
}
OTHER_DRAWS = {
    "none": lambda: True,
    "torch": lambda: bool(torch.rand(()) < 0.5),
    "an own generator": lambda: random.Random(0).random() < 0.5,
    "state put back": lambda: random.setstate(random.getstate()) is None,
}


def keyed(fn, params, gates, buffers, spec):
    return lambda: l0.gated(fn, spec)(params, gates, buffers, l0.random.key(2), X)


def with_buffers(fn, params, gates, buffers, spec):
    return lambda: l0.gated(fn, spec).with_buffers(params, gates, buffers, l0.random.key(2), X)


def rows(fn, params, gates, buffers, spec):
    keys = l0.random.split(l0.random.key(2), 5)
    return lambda: l0.per_example(l0.gated(fn, spec))(params, gates, buffers, keys, X)


def without_key(fn, params, gates, buffers, spec):
    return lambda: fn(params, buffers, X)


CALLS = [keyed, with_buffers, rows, without_key]
KEYED = [keyed, with_buffers, rows]


def network(draw):
    torch.manual_seed(0)
    net = LayerDrop(draw)
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params)
    return fn, params, l0.init_gates(l0.random.key(0), spec), buffers, spec


def told(call, times=1):
    """The warnings about other generators."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(times):
            call()
    return [w for w in caught if "global generator" in str(w.message)]


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("call", CALLS)
def test_a_draw_without_a_key_is_named_once_at_the_line_of_the_user(call, draw):
    [warning] = told(call(*network(DRAWS[draw])), times=6)
    assert warning.filename == __file__
    owner = "numpy.random" if draw in ("rand", "permutation") else "Python's random"
    assert f"generator of {owner} moved" in str(warning.message)
    assert "Draw with torch, whose numbers follow the key" in str(warning.message)


@pytest.mark.parametrize("draw", OTHER_DRAWS)
@pytest.mark.parametrize("call", KEYED)
def test_a_call_that_moves_no_global_generator_says_nothing(call, draw):
    if call is rows and draw == "torch":
        pytest.skip("a branch on a row's own draw is refused")
    np.random.rand()  # noqa: NPY002
    assert told(call(*network(OTHER_DRAWS[draw])), times=6) == []


def test_both_generators_are_named_together():
    call = keyed(*network(lambda: random.random() < np.random.rand()))  # noqa: NPY002
    assert "Python's random and of numpy.random" in str(told(call)[0].message)


def test_functions_that_are_derived_from_one_warn_once():
    fn, *others = network(DRAWS["random"])
    calls = [keyed(f, *others) for f in (fn, fn.eval(), fn)]
    assert len([w for call in calls for w in told(call)]) == 1


def test_a_draw_that_begins_late_is_found():
    calls = count()
    call = keyed(*network(lambda: next(calls) < 50 or random.random() < 0.5))
    assert told(call, times=49) == []
    assert len(told(call, times=200)) == 1


def test_a_function_by_hand_is_watched_too():
    def own(params, buffers, x):
        return x @ params["w"] if random.random() < 0.5 else x

    params = {"w": torch.randn(4, 4)}
    spec = l0.gate_spec(params)
    gates = l0.init_gates(l0.random.key(0), spec)
    apply = l0.gated(own, spec)
    assert len(told(lambda: apply(params, gates, {}, l0.random.key(2), X), times=6)) == 1


@pytest.mark.parametrize("per_example", [False, True])
def test_a_wrapped_module_warns_once_whatever_its_mode(per_example):
    net = l0.L0Module(LayerDrop(DRAWS["random"]), lam=0.0, seed=0, per_example=per_example)

    def epoch():
        net.train()(X)
        net.eval()(X)

    assert len(told(epoch, times=3)) == 1


def test_a_training_warns_once():
    fn, params, gates, buffers, spec = network(lambda: random.random() < 2)
    apply = l0.gated(fn, spec)

    def loss(params, gates, buffers, key, x):
        return apply(params, gates, buffers, key, x).square().mean()

    adam = l0.optimizer(torch.optim.Adam, lr=0.01)
    init, step = l0.training(loss, adam, adam)
    states = [init(l0.random.key(0), params, gates, buffers)]

    def one():
        states.append(step(states[-1], X)[0])

    assert len(told(one, times=4)) == 1


def test_a_call_that_fails_says_nothing_of_generators():
    def fails():
        random.random()
        raise ZeroDivisionError

    call = keyed(*network(fails))

    def failing():
        with pytest.raises(ZeroDivisionError):
            call()

    assert told(failing) == []
