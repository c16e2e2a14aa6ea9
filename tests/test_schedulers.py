"""Every scheduler of torch has a counterpart among the functions of the step."""

from __future__ import annotations

import pytest
import torch
from torch.optim import lr_scheduler as of_torch
from torch.testing import assert_close
from trainings import ADAM, X, Y, loss_of, network, start

import l0func as l0
from l0func import schedules

STEPS = 60


def rates(kind, lr, **settings):
    sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr, momentum=0.9)
    scheduler, found = kind(sgd, **settings), []
    for _ in range(STEPS):
        found.append(sgd.param_groups[0]["lr"])
        sgd.step()
        scheduler.step()
    return torch.tensor(found, dtype=torch.float64)


def sequence(optimizer):
    warm = of_torch.LinearLR(optimizer, 0.1, total_iters=10)
    cold = of_torch.CosineAnnealingLR(optimizer, 30)
    return of_torch.SequentialLR(optimizer, [warm, cold], [10])


SCHEDULERS = [
    (of_torch.StepLR, {"step_size": 7}),
    (of_torch.MultiStepLR, {"milestones": [5, 20]}),
    (of_torch.ConstantLR, {}),
    (of_torch.LinearLR, {}),
    (of_torch.ExponentialLR, {"gamma": 0.9}),
    (of_torch.PolynomialLR, {"total_iters": 30}),
    (of_torch.CosineAnnealingLR, {"T_max": 20}),
    (of_torch.CosineAnnealingWarmRestarts, {"T_0": 8, "T_mult": 2}),
    (of_torch.LambdaLR, {"lr_lambda": lambda step: 0.95**step}),
    (of_torch.CyclicLR, {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 9}),
    (of_torch.OneCycleLR, {"max_lr": 0.1, "total_steps": STEPS + 1}),
    (sequence, {}),
]


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize(("kind", "settings"), SCHEDULERS)
def test_rates_from_torch_are_torchs_own_and_the_last_one_stays(kind, settings):
    schedule = schedules.from_torch(kind, 0.1, STEPS, **settings)
    expected = rates(kind, 0.1, **settings)
    assert_close(schedule(torch.arange(STEPS)), expected, rtol=0, atol=0)
    assert schedule(torch.tensor(10 * STEPS)) == expected[-1]


@pytest.mark.parametrize(
    ("ours", "kind", "settings"),
    [
        (
            schedules.repeated(schedules.cosine(0.1, 0.01, 8), 8, growth),
            of_torch.CosineAnnealingWarmRestarts,
            {"T_0": 8, "T_mult": growth, "eta_min": 0.01},
        )
        for growth in (1, 2, 3)
    ]
    + [
        (
            schedules.pieces({0: 0.1, 5: 0.05, 20: 0.025}),
            of_torch.MultiStepLR,
            {"milestones": [5, 20], "gamma": 0.5},
        ),
        (
            schedules.linear(0.05, 0.1, 10),
            of_torch.LinearLR,
            {"start_factor": 0.5, "total_iters": 10},
        ),
        (schedules.cosine(0.1, 0.0, STEPS), of_torch.CosineAnnealingLR, {"T_max": STEPS}),
        (lambda step: 0.1 * 0.95**step, of_torch.ExponentialLR, {"gamma": 0.95}),
    ],
)
def test_the_documented_counterparts_give_the_same_rates(ours, kind, settings):
    found = torch.stack([torch.as_tensor(ours(step)) for step in range(STEPS)]).double()
    assert_close(found, rates(kind, 0.1, **settings), rtol=1e-5, atol=1e-7)


def test_a_training_under_warm_restarts_is_the_torch_loop_with_the_scheduler():
    net = network()
    lam = torch.tensor(1e-3)
    warm = schedules.repeated(schedules.cosine(0.1, 0.0, 3), 3)
    training = l0.training(
        loss_of(net[0], net[3]), l0.optimizer(ADAM, lr=warm), l0.optimizer(ADAM)
    )
    state = before = start(training, net)
    params = {path: p.clone().requires_grad_() for path, p in before.params.items()}
    adam = ADAM(params.values(), lr=0.1)
    scheduler = of_torch.CosineAnnealingWarmRestarts(adam, 3)
    for i in range(7):
        key = l0.random.fold_in(l0.random.key(0), i)
        adam.zero_grad()
        loss_of(net[0], net[3])(params, state.gates, net[2], key, X, Y, lam).backward()
        adam.step()
        scheduler.step()
        state, _ = training.step(state, X, Y, lam)
    assert_close(state.params, {path: p.detach() for path, p in params.items()})


def test_what_is_no_function_of_the_step_is_refused():
    with pytest.raises(TypeError, match="follows a metric"):
        schedules.from_torch(of_torch.ReduceLROnPlateau, 0.1, 10)
    with pytest.raises(ValueError, match="at least one step"):
        schedules.from_torch(of_torch.StepLR, 0.1, 0, step_size=2)
    with pytest.raises(ValueError, match="whole number of times"):
        schedules.repeated(schedules.linear(0.0, 1.0, 4), 4, growth=0)


def test_a_rate_that_falls_when_a_metric_stalls_is_another_training_with_the_same_state():
    net, lam = network(), torch.tensor(1e-3)
    loss, gates = loss_of(net[0], net[3]), l0.optimizer(ADAM, lr=0.1)
    steps = {lr: l0.training(loss, l0.optimizer(ADAM, lr=lr), gates) for lr in (0.1, 0.01)}
    staircase = l0.optimizer(ADAM, lr=schedules.pieces({0: 0.1, 2: 0.01}))
    one = other = start(steps[0.1], net)
    planned = l0.training(loss, staircase, gates)
    for i in range(4):
        one, _ = steps[0.1 if i < 2 else 0.01].step(one, X, Y, lam)
        other, _ = planned.step(other, X, Y, lam)
    assert_close(one.params, other.params)
