"""Frozen parameters stay as they are, and a training that would move them is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from trainings import ADAM, X, Y

import l0func as l0


def frozen_network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    net[0].requires_grad_(False)
    return net


def parts(net):
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, {"*weight": l0.element()})
    return fn, params, buffers, spec, l0.init_gates(l0.random.key(1), spec)


def loss_by(road):
    def loss(params, gates, buffers, key, x, y):
        return F.cross_entropy(road(params, gates, buffers, key, x), y)

    return loss


def by_rows(apply):
    rows = l0.per_example(apply)

    def road(params, gates, buffers, key, x):
        return rows(params, gates, buffers, l0.random.split(key, len(x)), x)

    return road


def ungated(apply):
    return lambda params, gates, buffers, key, x: apply.fn(params, buffers, x)


ROADS = [lambda apply: apply, by_rows, ungated]
SETTINGS = [{}, {"compile": True}, {"average": 0.9}, {"donate": True}]
COMPILED = (pytest.mark.compiles, pytest.mark.slow)
DECAYING = l0.optimizer(torch.optim.AdamW, lr=0.01, weight_decay=0.1)
GATES = l0.optimizer(ADAM, lr=0.1)


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("sweep", [False, True])
@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.compiles)])
def test_a_step_refuses_to_move_what_the_module_had_frozen(road, sweep, compile):
    fn, params, buffers, spec, gates = parts(frozen_network())
    in_dims = (None, None) if sweep else None
    loss = loss_by(road(l0.gated(fn, spec)))
    training = l0.training(loss, DECAYING, GATES, in_dims=in_dims, compile=compile)
    state = training.init(l0.random.key(0), params, gates, buffers)
    with pytest.raises(ValueError, match=r"'0\.(weight|bias)'.*trainable=fn\.trainable"):
        training.step(l0.stack([state] * 2) if sweep else state, X, Y)


@pytest.mark.parametrize(
    "trainable", [lambda fn: fn.trainable, lambda fn: "2.*", lambda fn: ["2.weight", "2.bias"]]
)
@pytest.mark.parametrize(
    "settings",
    [pytest.param(s, marks=COMPILED if "compile" in s else ()) for s in SETTINGS],
)
def test_what_is_not_trainable_neither_moves_nor_decays_nor_has_moments(trainable, settings):
    fn, params, buffers, spec, gates = parts(frozen_network())
    loss = loss_by(l0.gated(fn, spec))
    training = l0.training(loss, DECAYING, GATES, trainable=trainable(fn), **settings)
    state = training.init(l0.random.key(0), params, gates, buffers)
    for _ in range(3):
        state, _ = training.step(state, X, Y)
    moved = {path for path in params if not torch.equal(state.params[path], params[path])}
    assert moved == {"2.weight", "2.bias"} == set(fn.trainable)
    assert set(state.moments["params"]) == moved
    assert not torch.equal(state.gates["0.weight"], gates["0.weight"])


def test_frozen_parameters_train_as_arguments_that_training_never_saw():
    fn, params, buffers, spec, gates = parts(frozen_network())
    apply = l0.gated(fn, spec)
    frozen = {path: params[path] for path in params.keys() - fn.trainable}
    free = {path: params[path] for path in fn.trainable}

    def merged(params, gates, buffers, key, x, y):
        return loss_by(apply)({**frozen, **params}, gates, buffers, key, x, y)

    ours = l0.training(loss_by(apply), DECAYING, GATES, trainable=fn.trainable)
    theirs = l0.training(merged, DECAYING, GATES)
    one = ours.init(l0.random.key(0), params, gates, buffers)
    other = theirs.init(l0.random.key(0), free, gates, buffers)
    for _ in range(4):
        one, value = ours.step(one, X, Y)
        other, expected = theirs.step(other, X, Y)
        assert value == expected
    assert_close(one.params, {**frozen, **other.params}, rtol=0, atol=0)
    assert_close(one.gates, other.gates, rtol=0, atol=0)


def test_members_of_a_sweep_leave_frozen_parameters_too():
    fn, params, buffers, spec, gates = parts(frozen_network())
    loss = loss_by(l0.gated(fn, spec))
    single = l0.training(loss, DECAYING, GATES, trainable=fn.trainable)
    sweep = l0.training(
        loss, DECAYING, GATES, trainable=fn.trainable, in_dims=(None, None), chunk_size=2
    )
    starts = [single.init(l0.random.key(i), params, gates, buffers) for i in range(3)]
    stacked = l0.stack(starts)
    for _ in range(2):
        stacked, _ = sweep.step(stacked, X, Y)
        starts = [single.step(state, X, Y)[0] for state in starts]
    for member, alone in zip(l0.unstack(stacked), starts, strict=True):
        assert_close(member.params, alone.params)
        assert torch.equal(member.params["0.weight"], params["0.weight"])


def test_a_state_with_frozen_parameters_goes_on_from_its_file(tmp_path):
    fn, params, buffers, spec, gates = parts(frozen_network())
    loss = loss_by(l0.gated(fn, spec))
    training = l0.training(loss, DECAYING, GATES, trainable=fn.trainable)
    state = first = training.init(l0.random.key(0), params, gates, buffers)
    for _ in range(2):
        state, _ = training.step(state, X, Y)
    l0.save_state(tmp_path / "s", state, spec)
    loaded = l0.load_state(tmp_path / "s", first, spec)
    one, other = training.step(state, X, Y)[0], training.step(loaded, X, Y)[0]
    assert_close(one.params, other.params, rtol=0, atol=0)
    everything = l0.training(loss, DECAYING, GATES, trainable=None)
    with pytest.raises(ValueError, match=r"'0\.bias' is in .* and not in"):
        everything.step(loaded, X, Y)


def test_none_moves_all_and_a_pattern_of_nothing_is_refused():
    fn, params, buffers, spec, gates = parts(frozen_network())
    loss = loss_by(l0.gated(fn, spec))
    training = l0.training(loss, DECAYING, GATES, trainable=None)
    state = training.init(l0.random.key(0), params, gates, buffers)
    state, _ = training.step(state, X, Y)
    assert not torch.equal(state.params["0.weight"], params["0.weight"])
    nothing = l0.training(loss, DECAYING, GATES, trainable=())
    state, _ = nothing.step(nothing.init(l0.random.key(0), params, gates, buffers), X, Y)
    assert_close(state.params, params, rtol=0, atol=0)
    missing = l0.training(loss, DECAYING, GATES, trainable=["3.*"])
    with pytest.raises(ValueError, match=r"'3\.\*' matches no parameter"):
        missing.init(l0.random.key(0), params, gates, buffers)
    for odd in (3, [2], {"0.weight": True}):
        with pytest.raises(TypeError, match=r"patterns or paths, such as fn\.trainable"):
            l0.training(loss, DECAYING, GATES, trainable=odd)


def test_a_frozen_teacher_beside_the_network_is_no_reason_to_refuse():
    teacher = frozen_network().requires_grad_(False)
    teach, theirs, _ = l0.make_functional(teacher)
    fn, params, buffers, spec, gates = parts(nn.Linear(6, 3))
    apply = l0.gated(fn, spec)

    def loss(params, gates, buffers, key, x):
        return (apply(params, gates, buffers, key, x) - teach(theirs, {}, x)).square().mean()

    training = l0.training(loss, DECAYING, GATES)
    state, _ = training.step(training.init(l0.random.key(0), params, gates, buffers), X)
    assert not torch.equal(state.params["weight"], params["weight"])
