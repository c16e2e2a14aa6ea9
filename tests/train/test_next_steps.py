"""Refusals of a training say what would work, and what they say works."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import l0func as l0

FN, PARAMS, BUFFERS = l0.make_functional(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)))
SPEC = l0.gate_spec(PARAMS)
GATES = l0.init_gates(l0.random.key(0), SPEC)
APPLY = l0.gated(FN, SPEC)
KEY = l0.random.key(1)
X, Y = torch.ones(2, 4), torch.tensor([0, 1])
ADAM = l0.optimizer(torch.optim.Adam, lr=0.1)


def loss(params, gates, buffers, key, x, y):
    return F.cross_entropy(APPLY(params, gates, buffers, key, x), y)


def priced(params, gates, buffers, key, x, y, lam):
    return loss(params, gates, buffers, key, x, y) + lam * l0.expected_l0(gates, SPEC)


def step_with(own_loss=loss, **settings):
    init, step = l0.training(own_loss, ADAM, ADAM, **settings)
    return step(init(KEY, PARAMS, GATES, BUFFERS), X, Y)


class OnlyMatrices(torch.optim.SGD):
    def __init__(self, params, lr):
        super().__init__(params, lr=lr)
        for p in self.param_groups[0]["params"]:
            if p.dim() != 2:
                raise ValueError("only matrices")


def test_parameter_groups_name_the_way_to_optimizers_of_parts():
    groups = [{"params": [PARAMS["0.weight"]], "weight_decay": 0.1}]
    with pytest.raises(TypeError, match=r"params is no setting: AdamW.*l0func\.Optimizer"):
        l0.optimizer(torch.optim.AdamW, params=groups, lr=0.01)


def test_a_leaf_that_an_optimizer_does_not_take_is_named_by_init():
    matrices = l0.optimizer(OnlyMatrices, lr=0.1)
    init, _ = l0.training(loss, matrices, ADAM)
    message = r"OnlyMatrices takes no leaf such as '0\.bias' of shape \(5,\): only matrices.*part"
    with pytest.raises(ValueError, match=message):
        init(KEY, PARAMS, GATES, BUFFERS)
    with pytest.raises(ValueError, match="optimizer of weights couples entries"):
        l0.training(loss, matrices, ADAM, in_dims=(None, None), trainable=["*.weight"])


class WithVector(torch.optim.SGD):
    """It takes a vector as a setting, which is its own affair."""

    def __init__(self, params, lr, slope):
        super().__init__(params, lr=lr * float(slope.sum()))


def test_a_rate_with_several_numbers_is_named_where_the_optimizer_refuses_it():
    class OneRate(torch.optim.SGD):
        def __init__(self, params, lr):
            if lr.numel() != 1:
                raise ValueError("one number")
            super().__init__(params, lr=float(lr))

    with pytest.raises(
        ValueError, match=r"OneRate takes no 'lr' of several.*a sweep of their own"
    ):
        l0.optimizer(OneRate, lr=torch.tensor([0.1, 0.01]))
    assert l0.optimizer(OneRate, lr=torch.tensor(0.1)).by_entry
    assert l0.optimizer(WithVector, lr=0.1, slope=torch.tensor([0.5, 0.5])).by_entry


CLIPS = [
    functools.partial(nn.utils.clip_grad_norm_, max_norm=1.0),
    nn.utils.clip_grad_norm_,
    functools.partial(nn.utils.clip_grad_value_, clip_value=1.0),
    lambda weights: weights,
]


@pytest.mark.parametrize("clip", CLIPS)
def test_a_clip_that_does_not_take_two_trees_is_told_of_clip_norm(clip):
    with pytest.raises(TypeError, match=r"^clip .*l0func\.clip_norm\(1\.0\)"):
        step_with(clip=clip)


@pytest.mark.parametrize(
    "settings", [{"penalty": lambda p: 0}, {"reduce": lambda p: p}, {"clip": lambda p: p}]
)
def test_a_function_of_another_number_of_arguments_is_named_by_training(settings):
    with pytest.raises(TypeError, match=rf"{next(iter(settings))} is a function"):
        l0.training(loss, ADAM, ADAM, **settings)
    with pytest.raises(TypeError, match="loss is a function"):
        l0.training(lambda params, gates, x: 0, ADAM, ADAM)


def test_functions_with_free_optional_or_wrapped_arguments_are_taken():
    @functools.wraps(lambda one: one)
    def wrapped(*arguments):
        return loss(*arguments)

    def scaled(weights, gates, scale=0.5):
        return weights, gates

    state, _ = step_with(wrapped, clip=scaled, reduce=lambda *arguments: arguments[0])
    assert int(state.step) == 1


@pytest.mark.parametrize(
    "extra", [{"acc": torch.ones(())}, 1.0, torch.ones(()), {"acc": 1.0}, ["a"]]
)
def test_metrics_without_has_aux_are_told_of_it(extra):
    with pytest.raises((TypeError, ValueError), match="metrics go with has_aux=True"):
        step_with(lambda *arguments: (loss(*arguments), extra))


def test_metrics_before_buffers_are_told_of_the_order():
    def swapped(*arguments):
        return loss(*arguments), {"acc": torch.ones(())}, BUFFERS

    message = r"\(scalar, new buffers, metrics\), in this order"
    with pytest.raises(ValueError, match=message):
        step_with(swapped, has_aux=True)


@pytest.mark.parametrize(("first", "second"), [(["1.*"], None), (None, ["1.*"])])
def test_a_state_goes_on_with_other_trainable_leaves_as_the_refusal_says(first, second):
    (init, step), (anew, other) = (
        l0.training(loss, ADAM, ADAM, trainable=trainable) for trainable in (first, second)
    )
    state, _ = step(init(KEY, PARAMS, GATES, BUFFERS), X, Y)
    with pytest.raises(ValueError, match=r"another trainable.*state\._replace\(moments=init\("):
        other(state, X, Y)
    begun = anew(state.key, state.params, state.gates, state.buffers)
    state, _ = other(state._replace(moments=begun.moments), X, Y)
    assert int(state.step) == 2


def test_a_member_dimension_that_is_not_in_in_dims_is_named():
    init, step = l0.training(priced, ADAM, ADAM, in_dims=(None, None, None))
    state = init(KEY, PARAMS, GATES, BUFFERS)
    with pytest.raises(ValueError, match=r"shape \(3,\).*its dimension in in_dims, as 0"):
        step(l0.stack([state] * 3), X, Y, torch.ones(3))
    with pytest.raises(
        ValueError, match=r"stack of states.*l0func\.stack\(\[state\] \* members\)"
    ):
        step(state, X, Y, torch.ones(()))
    _, alone = l0.training(priced, ADAM, ADAM)
    with pytest.raises(ValueError, match=r"Average over the batch\.$"):
        alone(state, X, Y, torch.ones(3))


@pytest.mark.parametrize("several", [torch.tensor([0.1, 0.5]), [0.1, 0.5], (0.1, 0.5)])
def test_targets_for_members_are_told_of_the_stack_that_takes_them(several):
    with pytest.raises(TypeError, match=r"is a number; got .*states with controls of their own"):
        l0.lagrangian(SPEC, several)
    sgd = l0.optimizer(torch.optim.SGD, lr=0.1)
    control = l0.lagrangian(SPEC, 0.1)
    init, step = l0.training(loss, sgd, sgd, control=control, in_dims=(None, None))
    state = init(KEY, PARAMS, GATES, BUFFERS)
    controls = [l0.lagrangian(SPEC, target).init(GATES) for target in (0.1, 0.5)]
    states = l0.stack([state._replace(control=own) for own in controls])
    member = l0.unstack(step(states, X, Y)[0])[1]
    own, single = l0.training(loss, sgd, sgd, control=l0.lagrangian(SPEC, 0.5))
    expected, _ = single(own(KEY, PARAMS, GATES, BUFFERS), X, Y)
    assert_close(member.gates, expected.gates)


def test_gates_with_a_spec_of_other_rules_are_told_of_the_modules_own():
    rules = {"bias": None, "weight": l0.element()}
    net = l0.L0Module(nn.Linear(4, 3), lam=1e-3, rules=rules, seed=0)
    with pytest.raises(ValueError, match=r"'bias' is in the spec's gates and not.*net\.spec"):
        l0.prune(net.weights(), net.gates(), l0.gate_spec(net.weights()))
    assert l0.prune(net.weights(), net.gates(), net.spec).keys() == net.weights().keys()
