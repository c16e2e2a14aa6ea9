"""Members of a stack that are no longer finite, from their losses or from their states."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import l0func as l0

NUMBERS = [1.0, math.nan, -2.0, math.inf, -math.inf, 0.0]
BAD = [i for i, number in enumerate(NUMBERS) if not math.isfinite(number)]
LOSSES: dict[str, torch.Tensor] = {
    "a vector": torch.tensor(NUMBERS),
    "half precision": torch.tensor(NUMBERS).to(torch.bfloat16),
    "with a graph": torch.tensor(NUMBERS, requires_grad=True),
    "a parameter": torch.nn.Parameter(torch.tensor(NUMBERS)),
    "a column": torch.tensor(NUMBERS).unsqueeze(1),
    "losses of rows": torch.stack([torch.ones(6), torch.tensor(NUMBERS)], 1),
    "complex": torch.complex(torch.zeros(6), torch.tensor(NUMBERS)),
}


@pytest.mark.parametrize("losses", LOSSES.values(), ids=LOSSES)
def test_losses_that_are_not_finite_name_their_members(losses):
    assert l0.diverged(losses) == BAD
    assert l0.diverged({"loss": losses}) == BAD
    assert l0.diverged([losses, torch.zeros(6)]) == BAD


def test_all_finite_or_whole_numbers_name_nobody():
    assert l0.diverged(torch.zeros(4)) == []
    assert l0.diverged(torch.arange(4)) == []
    assert l0.diverged(torch.zeros(3, 0)) == []


def test_the_losses_of_a_sweep_s_step_say_what_its_states_say():
    def loss(params: Any, gates: Any, buffers: Any, key: Any, x: Any) -> Any:
        return (params["w"] * x).sum() + gates["w"].square().sum()

    params = {"w": torch.ones(2)}
    spec = l0.gate_spec(params)
    gates = l0.init_gates(l0.random.key(0), spec)
    sgd = l0.optimizer(torch.optim.SGD, lr=0.1)
    single, sweep = l0.training(loss, sgd, sgd), l0.training(loss, sgd, sgd, in_dims=(0,))
    keys = l0.random.split(l0.random.key(1), 3)
    states = l0.stack([single.init(key, params, gates, {}) for key in keys])
    x = torch.tensor([1.0, math.nan, 1.0]).unsqueeze(1).expand(3, 2)
    states, losses = sweep.step(states, x)
    assert l0.diverged(losses) == l0.diverged(states) == [1]


@pytest.mark.parametrize(
    ("states", "error", "words"),
    [
        (torch.tensor(math.nan), ValueError, "'states' is one number, of no stack"),
        ({"a": torch.zeros(2), "b": torch.tensor(1.0)}, ValueError, "'b' is one number"),
        (torch.zeros(0), ValueError, "'states' has 0"),
        (0.5, TypeError, "a stack: expected a dict"),
        ([0.5, math.nan], TypeError, "'0' is float"),
    ],
)
def test_what_is_no_stack_is_refused_by_name(states, error, words):
    with pytest.raises(error, match=words):
        l0.diverged(states)


@pytest.mark.parametrize("sizes", [(3, 2), (2, 2), (5, 4)])
@pytest.mark.parametrize("function", [l0.unstack, l0.diverged])
def test_the_state_of_one_network_is_no_stack(sizes, function):
    _, params, buffers = l0.make_functional(torch.nn.Linear(*sizes))
    spec = l0.gate_spec(params)
    sgd = l0.optimizer(torch.optim.SGD, lr=0.1, momentum=0.9)
    start = l0.training(lambda p, g, b, k: p["weight"].sum(), sgd, sgd).init
    state = start(l0.random.key(0), params, l0.init_gates(l0.random.key(1), spec), buffers)
    with pytest.raises(ValueError, match=rf"{function.__name__} takes a stack.*one network"):
        function(state)
    function(l0.stack([state]))


def test_members_come_from_any_iterable():
    members = [{"w": torch.full((2,), float(i))} for i in range(3)]
    assert torch.equal(l0.stack(m for m in members)["w"], l0.stack(members)["w"])
    assert torch.equal(l0.stack(tuple(members))["w"], l0.stack(members)["w"])
    with pytest.raises(ValueError, match="at least one member"):
        l0.stack(m for m in members[:0])


@pytest.mark.parametrize("states", [{"w": torch.ones(2)}, torch.ones(2), 3], ids=str)
def test_one_pytree_is_no_list_of_members(states):
    with pytest.raises(TypeError, match=rf"list of members.*got one {type(states).__name__}"):
        l0.stack(states)
