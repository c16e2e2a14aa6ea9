"""Loss, penalty and metrics apart; clipped gradients; names of arguments."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from trainings import ADAM, X, Y, loss_of, network, of, start, trained

import l0func as l0

LAM = torch.tensor(0.05)
PAIR = (l0.optimizer(ADAM, lr=0.01), l0.optimizer(ADAM, lr=0.1))


@pytest.fixture
def net():
    return network()


def data_loss(net):
    whole = loss_of(net[0], net[3])
    return lambda params, gates, buffers, key, x, y: whole(
        params, gates, buffers, key, x, y, torch.tensor(0.0)
    )


def compiled_too(*settings):
    """The compiler of machine code takes ten seconds a case: one case is not slow."""
    marks = (pytest.mark.compiles, pytest.mark.slow)
    return [pytest.param(s, marks=marks if "compile" in s else ()) for s in settings]


@pytest.mark.parametrize("settings", compiled_too({}, {"compile": True}))
def test_a_penalty_apart_moves_as_one_in_the_loss_and_is_not_in_its_value(net, settings):
    def penalty(params, gates):
        return l0.penalty(params, gates, net[3], LAM)

    apart = l0.training(data_loss(net), *PAIR, penalty=penalty, **settings)
    inside = l0.training(loss_of(net[0], net[3]), *PAIR)
    one, other = start(apart, net), start(inside, net)
    for _ in range(3):
        price = penalty(one.params, one.gates)
        one, value = apart.step(one, X, Y)
        other, total = inside.step(other, X, Y, LAM)
        assert_close(value + price, total)
    assert_close(one.gates, other.gates)
    assert_close(one.params, other.params)


def with_metrics(net, buffers_too):
    loss = data_loss(net)

    def measured(params, gates, buffers, key, x, y):
        value = loss(params, gates, buffers, key, x, y)
        metrics = {"double": 2 * value, "rows": len(x), "of": [params["2.bias"].sum()]}
        return (value, buffers, metrics) if buffers_too else (value, metrics)

    return measured


@pytest.mark.parametrize(
    ("settings", "buffers_too"),
    [
        ({}, False),
        ({}, True),
        pytest.param({"compile": True}, False, marks=[pytest.mark.compiles, pytest.mark.slow]),
        pytest.param({"compile": True}, True, marks=pytest.mark.compiles),
    ],
)
def test_metrics_come_beside_the_loss_and_change_nothing(net, buffers_too, settings):
    training = l0.training(with_metrics(net, buffers_too), *PAIR, has_aux=True, **settings)
    plain = l0.training(data_loss(net), *PAIR)
    state, value, metrics = training.step(start(training, net), X, Y)
    expected, same = plain.step(start(plain, net), X, Y)
    assert_close(state.params, expected.params)
    assert_close(value, same)
    assert_close(metrics["double"], 2 * value)
    assert metrics["rows"] == len(X)
    assert not metrics["double"].requires_grad


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_every_member_of_a_sweep_has_its_metrics(net, chunk_size):
    loss = with_metrics(net, False)
    single = l0.training(loss, *PAIR, has_aux=True)
    sweep = l0.training(loss, *PAIR, has_aux=True, in_dims=(None, None), chunk_size=chunk_size)
    starts = [start(single, net, seed) for seed in range(3)]
    _, values, metrics = sweep.step(l0.stack(starts), X, Y)
    assert values.shape == metrics["double"].shape == metrics["rows"].shape == (3,)
    for i, state in enumerate(starts):
        assert_close(metrics["of"][0][i], single.step(state, X, Y)[2]["of"][0])


@pytest.mark.parametrize(
    ("returned", "has_aux", "message"),
    [
        (lambda v: v, True, "got Tensor"),
        (lambda v: (v, {}, {}, {}), True, "got tuple"),
        (lambda v: (v, {"why": "text"}), True, "'why' is str"),
        (lambda v: (v, {}, {}), False, "Metrics go with has_aux=True"),
        (lambda v: ({}, v), True, "the scalar a tensor"),
    ],
)
def test_a_loss_of_another_form_is_refused(net, returned, has_aux, message):
    training = l0.training(
        lambda p, g, b, k, x: returned(p["0.bias"].sum()), *PAIR, has_aux=has_aux
    )
    with pytest.raises(TypeError, match=message):
        training.step(start(training, net), X)


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, math.inf])
@pytest.mark.parametrize("max_norm", [1e-3, 0.5, 1e3])
def test_clipping_by_norm_is_torchs_own(max_norm, norm_type):
    shapes = {"a": (3, 4), "b": (), "c": (5,)}
    leaves = {name: nn.Parameter(torch.zeros(shape)) for name, shape in shapes.items()}
    for i, leaf in enumerate(leaves.values()):
        leaf.grad = l0.random.normal(l0.random.key(i), tuple(leaf.shape))
    grads = {name: leaf.grad.clone() for name, leaf in leaves.items()}
    weights, gates = {n: grads[n] for n in "ab"}, {"c": grads["c"]}
    ours = l0.clip_norm(max_norm, norm_type)(weights, gates)
    torch.nn.utils.clip_grad_norm_(leaves.values(), max_norm, norm_type)
    assert_close({**ours[0], **ours[1]}, {name: leaf.grad for name, leaf in leaves.items()})


@pytest.mark.parametrize("settings", compiled_too({}, {"compile": True}))
def test_a_clipped_step_is_the_torch_loop_with_clip_grad_norm(net, settings):
    sgd = torch.optim.SGD
    training = l0.training(
        loss_of(net[0], net[3]),
        l0.optimizer(sgd, lr=0.1),
        l0.optimizer(sgd, lr=0.5),
        clip=l0.clip_norm(0.05),
        **settings,
    )
    state = before = start(training, net)
    state, _ = training.step(state, X, Y, LAM)
    leaves = [
        t.clone().requires_grad_() for t in (*before.params.values(), *before.gates.values())
    ]
    count = len(before.params)
    params = dict(zip(before.params, leaves, strict=False))
    gates = dict(zip(before.gates, leaves[count:], strict=True))
    key = l0.random.fold_in(l0.random.key(0), 0)
    loss_of(net[0], net[3])(params, gates, {}, key, X, Y, LAM).backward()
    torch.nn.utils.clip_grad_norm_(leaves, 0.05)
    loop = sgd([{"params": leaves[:count], "lr": 0.1}, {"params": leaves[count:], "lr": 0.5}])
    loop.step()
    assert_close([*state.params.values(), *state.gates.values()], [t.detach() for t in leaves])


def test_members_of_a_sweep_are_clipped_apart(net):
    clip = l0.clip_norm(0.01)
    single, sweep = of(net, clip=clip), of(net, clip=clip, in_dims=(None, None, 0))
    starts, lams = [start(single, net, seed) for seed in range(2)], torch.tensor([0.0, 5.0])
    stacked, _ = sweep.step(l0.stack(starts), X, Y, lams)
    for i, member in enumerate(l0.unstack(stacked)):
        assert_close(member.gates, single.step(starts[i], X, Y, lams[i])[0].gates)


def test_a_function_over_the_gradients_may_do_anything(net):
    def only_gates(weights, gates):
        return {path: torch.zeros_like(g) for path, g in weights.items()}, gates

    sgd = l0.optimizer(torch.optim.SGD, lr=0.1)
    training = l0.training(loss_of(net[0], net[3]), sgd, sgd, clip=only_gates)
    state = trained(training, start(training, net), 2, X, Y, LAM)
    assert_close(state.params, net[1], rtol=0, atol=0)
    wrong = l0.training(loss_of(net[0], net[3]), sgd, sgd, clip=lambda weights, gates: weights)
    with pytest.raises(TypeError, match=r"returns both; got dict.*clip_norm"):
        wrong.step(start(wrong, net), X, Y, LAM)
    wrong = l0.training(loss_of(net[0], net[3]), sgd, sgd, clip=lambda weights, gates: ({}, gates))
    with pytest.raises(ValueError, match="and not in the gradients that clip returned"):
        wrong.step(start(wrong, net), X, Y, LAM)

    def summed(weights, gates):
        return {path: g.sum() for path, g in weights.items()}, gates

    wrong = l0.training(loss_of(net[0], net[3]), sgd, sgd, clip=summed)
    with pytest.raises(ValueError, match=r"keeps the shapes.*of shape \(\) for"):
        wrong.step(start(wrong, net), X, Y, LAM)


@pytest.mark.parametrize("numbers", [(0.0,), (-1.0,), (math.inf,), (math.nan,), (1.0, 0.5)])
def test_a_norm_that_clips_nothing_is_refused(numbers):
    with pytest.raises(ValueError, match="finite and above 0"):
        l0.clip_norm(*numbers)


def test_the_former_names_of_the_optimizers_work_with_a_warning(net):
    loss = loss_of(net[0], net[3])
    new = l0.training(loss, weights_optimizer=PAIR[0], gates_optimizer=PAIR[1])
    with pytest.warns(DeprecationWarning, match="now named") as caught:
        old = l0.training(loss, params=PAIR[0], gates=PAIR[1])
    assert {w.filename for w in caught} == {__file__}
    one = trained(new, start(new, net), 2, X, Y, LAM)
    assert_close(one.params, trained(old, start(old, net), 2, X, Y, LAM).params, rtol=0, atol=0)
    with pytest.raises(TypeError, match="gates_optimizer is missing"):
        l0.training(loss, PAIR[0])
    with pytest.raises(TypeError, match="former name of gates_optimizer; got both"):
        l0.training(loss, *PAIR, gates=PAIR[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"penalty": 1e-3}, r"a function \(params, gates\).*got 0\.001"),
        ({"clip": 1.0}, r"such as l0func\.clip_norm\(1\.0\); got 1\.0"),
        ({"average": "0.9"}, r"The average's decay is a number; got '0\.9'"),
        ({"average": None}, "is a number; got None"),
        ({"in_dims": (None, None, None), "chunk_size": 2.5}, r"chunk_size is a whole number"),
        ({"in_dims": (None, None, None), "chunk_size": "2"}, r"chunk_size is a whole number"),
        ({"in_dims": "0"}, "an entry for each input"),
    ],
)
def test_odd_arguments_are_named(net, settings, message):
    with pytest.raises(TypeError, match=message):
        of(net, **settings)


@pytest.mark.parametrize(
    ("target", "settings", "message"),
    [
        ("0.1", {}, r"The target of '\*' is a number; got '0\.1'"),
        (None, {}, r"is a number; got None"),
        ([0.1], {}, r"is a number; got \[0\.1\]"),
        ({"0.*": "half"}, {}, r"The target of '0\.\*' is a number; got 'half'"),
        (0.5, {"warmup": "10"}, "warmup is a number; got '10'"),
        (0.5, {"lr": None}, "lr is a number; got None"),
        (0.5, {"measure": "macs", "counts": {}}, r"counts come from l0func\.count_macs; got dict"),
    ],
)
def test_odd_arguments_of_a_controller_are_named(net, target, settings, message):
    with pytest.raises(TypeError, match=message):
        l0.lagrangian(net[3], target, **settings)


def test_a_loss_that_keeps_new_buffers_to_itself_is_told_once():
    torch.manual_seed(0)
    fn, params, buffers = l0.make_functional(nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)))
    spec = l0.gate_spec(params, {"0.weight": l0.element()})
    apply = l0.gated(fn, spec)

    def loss(params, gates, buffers, key, x, y, returned):
        output, _ = apply.with_buffers(params, gates, buffers, key, x)
        value = F.cross_entropy(output, y)
        return (value, buffers) if returned else value

    training = l0.training(loss, *PAIR)
    state = training.init(l0.random.key(0), params, l0.init_gates(l0.random.key(1), spec), buffers)
    training.step(state, X, Y, True)
    with pytest.warns(UserWarning, match=r"'1\.running_mean'.*Return \(loss, new buffers\)") as w:
        training.step(state, X, Y, False)
    assert w[0].filename == __file__
    training.step(state, X, Y, False)


def test_the_keys_of_steps_are_those_that_the_loss_gets(net):
    loss = data_loss(net)

    def with_key(params, gates, buffers, key, x, y):
        return loss(params, gates, buffers, key, x, y), {"key": key}

    training = l0.training(with_key, *PAIR, has_aux=True)
    state = start(training, net)
    for i in range(3):
        coming = state.key_of(state.step)
        state, _, metrics = training.step(state, X, Y)
        assert torch.equal(metrics["key"], coming)
        assert torch.equal(metrics["key"], state.key_of(i))
