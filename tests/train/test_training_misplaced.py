"""Training, clipping and schedules name a wrong argument where the user gives it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

import l0func as l0
from l0func import schedules

NET = nn.Linear(4, 3)
FN, PARAMS, BUFFERS = l0.make_functional(NET)
SPEC = l0.gate_spec(PARAMS)
GATES = l0.init_gates(l0.random.key(0), SPEC)
APPLY = l0.gated(FN, SPEC)
KEY = l0.random.key(1)
X, Y = torch.ones(2, 4), torch.tensor([0, 1])
ADAM = l0.optimizer(torch.optim.Adam, lr=0.1)


def loss(params, gates, buffers, key, x, y):
    return F.cross_entropy(APPLY(params, gates, buffers, key, x), y)


def step_with(own_loss, **settings):
    init, step = l0.training(own_loss, ADAM, ADAM, **settings)
    return step(init(KEY, PARAMS, GATES, BUFFERS), X, Y)


UNREACHED = {
    "detached": lambda *arguments: loss(*arguments).detach(),
    "a constant": lambda *arguments: torch.tensor(1.0),
    "the module itself": lambda p, g, b, k, x, y: F.cross_entropy(NET(x).detach(), y),
    "a tensor of a number": lambda *arguments: torch.tensor(loss(*arguments).item()),
}


@pytest.mark.parametrize("name", UNREACHED)
def test_a_loss_that_reaches_nothing_is_refused(name):
    with pytest.raises(ValueError, match="does not depend on the params and gates"):
        step_with(UNREACHED[name])


def test_a_constant_loss_beside_a_penalty_still_trains_the_gates():
    def price(params, gates):
        return l0.penalty(params, gates, SPEC, lam=1.0)

    state, _ = step_with(UNREACHED["a constant"], penalty=price)
    assert not torch.equal(state.gates["weight"], GATES["weight"])


def test_a_sweep_refuses_a_loss_that_reaches_nothing():
    init, step = l0.training(UNREACHED["a constant"], ADAM, ADAM, in_dims=(None, None))
    states = l0.stack([init(KEY, PARAMS, GATES, BUFFERS)] * 2)
    with pytest.raises(ValueError, match="does not depend on the params and gates"):
        step(states, X, Y)


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, NET), (0, {"weight": [1.0]}), (2, NET), (0, {"weight": X.cpu().numpy()}), (1, SPEC)],
)
def test_init_names_the_tree_that_is_none(place, value):
    init, _ = l0.training(loss, ADAM, ADAM)
    trees = [PARAMS, GATES, BUFFERS]
    trees[place] = value
    name = ("params", "gates", "buffers")[place]
    with pytest.raises((TypeError, ValueError), match=rf"{name}.*Arguments come in the order"):
        init(KEY, *trees)


@pytest.mark.parametrize("norm", ["1", None, True, PARAMS, [1.0]])
def test_a_norm_that_is_no_number_is_named(norm):
    with pytest.raises(TypeError, match="max_norm is a number; got"):
        l0.clip_norm(norm)
    with pytest.raises(TypeError, match="norm_type is a number; got"):
        l0.clip_norm(1.0, norm)


def test_parameters_in_the_place_of_trainable_are_named_in_one_line():
    with pytest.raises(TypeError, match="trainable is a pattern") as caught:
        l0.training(loss, ADAM, ADAM, trainable=PARAMS)
    assert len(str(caught.value)) < 250


STEP_LR = lr_scheduler.StepLR
RUNNING = STEP_LR(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1), 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.linear("a", 0, 3), "A schedule's first value is a number; got 'a'"),
        (lambda: schedules.linear(None, 1, 5), "A schedule's first value is a number"),
        (lambda: schedules.linear(1, "0", 5), "A schedule's last value is a number"),
        (lambda: schedules.linear(1, 0, "5"), "A schedule's number of steps is a number"),
        (lambda: schedules.linear(1, 0, 5, begin="a"), "at which a schedule begins is a number"),
        (lambda: schedules.cosine("1", 0, 3), "A schedule's first value is a number"),
        (lambda: schedules.cosine(1, 0, None), "A schedule's number of steps is a number"),
        (lambda: schedules.pieces([1, 2]), r"\{first step: value\}.*got list"),
        (lambda: schedules.pieces({"0": 1.0}), "A first step in a schedule is a number"),
        (lambda: schedules.pieces({0: "a"}), "The value from step 0 on is a number; got 'a'"),
        (lambda: schedules.repeated(0.1, 3), "A schedule to repeat is a function of the step"),
        (lambda: schedules.repeated(schedules.linear(1, 0, 3), 3, "2"), "growth is a number"),
        (lambda: schedules.from_torch("StepLR", 0.1, 5), "is a class in torch.optim.lr_scheduler"),
        (lambda: schedules.from_torch(RUNNING, 0.1, 5), "Give the class, StepLR, and its settin"),
        (lambda: schedules.from_torch(STEP_LR, "a", 5, step_size=1), "starts from is a number"),
    ],
)
def test_a_schedule_of_wrong_kinds_is_refused_where_it_is_made(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def plain_loss(params, gates, buffers, key, x, y):
    return F.cross_entropy(FN(params, buffers, x), y)


def price(params, gates):
    return l0.penalty(params, gates, SPEC, lam=1.0)


UNMASKED = [
    {},
    {"penalty": price},
    {"control": l0.lagrangian(SPEC, 0.5)},
    {"reduce": lambda tree, rows: tree},
    {"trainable": ["bias"]},
]


@pytest.mark.parametrize("settings", UNMASKED)
def test_a_loss_that_reaches_parameters_and_no_gate_is_refused(settings):
    with pytest.raises(ValueError, match=r"reaches parameters and no gate.*l0func\.gated"):
        step_with(plain_loss, **settings)
    step_with(loss, **settings)


def test_a_sweep_refuses_a_loss_that_reaches_no_gate():
    init, step = l0.training(plain_loss, ADAM, ADAM, in_dims=(None, None))
    states = l0.stack([init(KEY, PARAMS, GATES, BUFFERS)] * 2)
    with pytest.raises(ValueError, match="reaches parameters and no gate"):
        step(states, X, Y)
    l0.training(loss, ADAM, ADAM, in_dims=(None, None)).step(states, X, Y)


def test_parameters_train_without_gates_or_with_gates_that_are_held():
    still = l0.optimizer(torch.optim.SGD, lr=0.0)
    for gates, own in (({}, ADAM), (GATES, still)):
        init, step = l0.training(plain_loss, ADAM, own)
        state, _ = step(init(KEY, PARAMS, gates, BUFFERS), X, Y)
        assert not torch.equal(state.params["weight"], PARAMS["weight"])
        assert all(torch.equal(state.gates[name], t) for name, t in gates.items())
