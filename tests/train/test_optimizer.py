"""torch's optimizers as functions, schedules, stacks."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import l0func as l0

ADAM = torch.optim.Adam


@pytest.mark.parametrize(
    "lr", [l0.schedules.pieces({0: 1.0, 2: 0.25}), lambda step: 1.0 if step < 2 else 0.25]
)
def test_settings_follow_their_schedule(lr):
    sgd = l0.optimizer(torch.optim.SGD, lr=lr)
    w, ones = {"w": torch.zeros(2)}, {"w": torch.ones(2)}
    moments = sgd.init(w)
    for i in range(3):
        w, moments = sgd.update(ones, moments, w, torch.tensor(i))
    assert_close(w, {"w": torch.full((2,), -2.25)})


def test_schedules_pass_through_their_points():
    steps = torch.arange(0, 9)
    assert_close(
        l0.schedules.linear(1.0, 0.0, 4, begin=2)(steps),
        torch.tensor([1, 1, 1, 0.75, 0.5, 0.25, 0, 0, 0]),
    )
    assert_close(
        l0.schedules.cosine(1.0, 0.0, 4)(torch.tensor([0, 1, 2, 4])),
        torch.tensor([1, 0.8535534, 0.5, 0.0]),
    )
    assert_close(
        l0.schedules.pieces({0: 3.0, 5: 4.0})(torch.tensor([-1, 0, 4, 5, 9])),
        torch.tensor([3.0, 3, 3, 4, 4]),
    )


@pytest.mark.parametrize(
    ("kind", "message"),
    [(torch.optim.LBFGS, "closure"), (torch.optim.SparseAdam, "dense gradients")],
)
def test_an_optimizer_that_a_pure_step_cannot_serve_is_refused(kind, message):
    with pytest.raises(TypeError, match=message):
        l0.optimizer(kind)


@pytest.mark.parametrize("value", [float("nan"), "1", torch.ones(2)])
def test_a_schedule_gives_one_finite_number(value):
    sgd = l0.optimizer(torch.optim.SGD, lr=lambda step: value if step > 2 else 1.0)
    w = {"w": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"lr is .* at step 3"):
        sgd.update(w, sgd.init(w), w, torch.tensor(3))


@pytest.mark.parametrize("kind", [ADAM([torch.zeros(1)]), "Adam", nn.Linear])
def test_an_optimizer_is_named_by_its_class(kind):
    with pytest.raises(TypeError, match=r"class of torch\.optim"):
        l0.optimizer(kind)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: l0.schedules.linear(0, 1, 0), "at least one step"),
        (lambda: l0.schedules.pieces({3: 1.0}), "from step 0 on"),
        (lambda: l0.stack([]), "at least one member"),
        (
            lambda: l0.stack([{"a": torch.ones(2)}, {"a": torch.ones(3)}]),
            r"'a' is \(2,\) in member 0 and \(3,\) in member 1",
        ),
        (
            lambda: l0.stack([{"a": torch.ones(2)}, {"b": torch.ones(2)}]),
            "'b' is in member 1 of the stack and not in member 0",
        ),
        (lambda: l0.unstack({"a": torch.ones(2), "b": torch.ones(3)}), "'a' has 2 and 'b' has 3"),
        (
            lambda: l0.stack([{"a": torch.ones(2)}, {"a": torch.ones(2).double()}]),
            "is torch.float32 in member 0",
        ),
        (lambda: l0.optimizer(ADAM, lr=-1.0), "Invalid learning rate"),
    ],
)
def test_what_means_nothing_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


SCHEDULERS = torch.optim.lr_scheduler
STARTED = SCHEDULERS.StepLR(torch.optim.SGD([torch.zeros(1)], lr=0.1), 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": "0.1"}, r"Adam does not take lr='0\.1' \(str\).* default is 0\.001.*a schedule"),
        ({"lr": [0.1]}, r"Adam does not take lr=\[0\.1\] \(list\)"),
        ({"lr": 0.1, "weight_decay": None}, "Adam does not take weight_decay=None"),
        ({"betas": (0.9,)}, r"Adam does not take betas=\(0\.9,\).* default is \(0\.9, 0\.999\)"),
        (
            {"betas": (0.9, l0.schedules.linear(0.9, 0.99, 10))},
            "betas=.*A schedule stands for a whole setting.*the numbers in betas are fixed",
        ),
        ({"lr": SCHEDULERS.CosineAnnealingLR}, r"from_torch\(torch.*\.CosineAnnealingLR, lr"),
        ({"lr": STARTED}, r"lr is a scheduler of torch, StepLR.*schedules\.from_torch\("),
        ({"lr": SCHEDULERS.ReduceLROnPlateau}, "lr is a scheduler of torch, ReduceLROnPlateau"),
        ({"lr": lambda: 0.1}, r"lr is a function.*does not take the step.*linear\(start, end"),
        ({"learning_rate": 0.1}, "no setting 'learning_rate'; you may mean 'lr'.* are lr, betas"),
        ({"weight_decy": 0.1}, "no setting 'weight_decy'; the closest is 'weight_decay'"),
        ({"momentum": 0.1}, r"Adam has no setting 'momentum'\. Its settings are lr, betas"),
    ],
)
def test_a_setting_that_an_optimizer_does_not_take_is_named(settings, message):
    with pytest.raises(TypeError, match=message):
        l0.optimizer(ADAM, **settings)


def test_an_error_in_a_schedule_stays_the_schedules():
    def schedule(step):
        raise IndexError("mine")

    with pytest.raises(IndexError, match=r"^mine$"):
        l0.optimizer(ADAM, lr=schedule)


def test_an_optimizer_that_takes_any_setting_gets_all():
    class Loose(torch.optim.SGD):
        def __init__(self, params, **others):
            super().__init__(params, lr=others["rate"])

    moved = l0.optimizer(Loose, rate=0.5)
    w = {"w": torch.ones(2)}
    assert_close(
        moved.update(w, moved.init(w), w, torch.tensor(0))[0], {"w": torch.full((2,), 0.5)}
    )
