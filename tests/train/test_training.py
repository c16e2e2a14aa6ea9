"""Training as a function: a torch loop written out, single runs against a sweep, states that go on
where they stopped.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from trainings import ADAM, X, Y, loss_of, network, of, start, trained

import l0func as l0
from l0func.internal import tree


@pytest.fixture
def net():
    return network()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (ADAM, {}),
        (torch.optim.AdamW, {"weight_decay": 0.0}),
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.RMSprop, {}),
    ],
)
def test_a_step_is_the_torch_loop_written_out(net, kind, settings):
    fn, params, buffers, spec = net
    loss, lam = loss_of(fn, spec), torch.tensor(1e-3)
    training = l0.training(
        loss, l0.optimizer(kind, lr=0.01, **settings), l0.optimizer(kind, lr=0.1, **settings)
    )
    state = trained(training, start(training, net), 5, X, Y, lam)
    gates = l0.init_gates(l0.random.key(100), spec)
    weights, alphas = (
        [t.clone().requires_grad_() for t in part.values()] for part in (params, gates)
    )
    theirs = kind([{"params": weights, "lr": 0.01}, {"params": alphas, "lr": 0.1}], **settings)
    for i in range(5):
        theirs.zero_grad()
        key = l0.random.fold_in(l0.random.key(0), i)
        named = dict(zip(params, weights, strict=True)), dict(zip(gates, alphas, strict=True))
        loss(*named, buffers, key, X, Y, lam).backward()
        theirs.step()
    assert_close(list(state.params.values()), [t.detach() for t in weights])
    assert_close(list(state.gates.values()), [t.detach() for t in alphas])
    assert state.step == 5


def test_a_step_leaves_its_state_as_it_was_and_gives_the_same_again(net):
    training = of(net, average=0.9)
    state = trained(training, start(training, net), 2, X, Y, torch.tensor(1e-3))
    before = tree.map_tensors(torch.clone, state)
    first, loss = training.step(state, X, Y, torch.tensor(1e-3))
    again, same = training.step(state, X, Y, torch.tensor(1e-3))
    for a, b in ((state, before), (first, again)):
        assert_close(tree.leaves(a), tree.leaves(b), rtol=0, atol=0)
    assert loss == same


def test_a_donated_state_gives_the_same_numbers_in_the_same_memory(net):
    plain, donating = of(net), of(net, donate=True)
    inputs = (X, Y, torch.tensor(1e-3))
    one, other = (
        trained(plain, start(plain, net), 2, *inputs),
        trained(donating, start(donating, net), 2, *inputs),
    )
    where = {path: t.data_ptr() for path, t in other.params.items()}
    one, other = trained(plain, one, 2, *inputs), trained(donating, other, 2, *inputs)
    assert_close(tree.leaves(one), tree.leaves(other), rtol=0, atol=0)
    assert where == {path: t.data_ptr() for path, t in other.params.items()}


@pytest.mark.parametrize("trainable", [..., ["*.weight"], []])
def test_a_state_that_a_step_has_used_up_is_refused(net, trainable):
    donating = of(net, donate=True, trainable=trainable)
    inputs = (X, Y, torch.tensor(1e-3))
    first = start(donating, net)
    second, _ = donating.step(first, *inputs)
    with pytest.raises(ValueError, match=r"donate=True.*state that the step returned"):
        donating.step(first, *inputs)
    third, _ = donating.step(second, *inputs)
    with pytest.raises(ValueError, match="donate=True"):
        donating.step(second, *inputs)
    # The step's number is the old one; the tensors are new.
    again = second._replace(params=start(donating, net).params, gates=start(donating, net).gates)
    assert int(donating.step(again, *inputs)[0].step) == int(third.step)


def test_averages_weigh_as_their_formula_says(net):
    training = of(net, average=0.8)
    state, seen = start(training, net), []
    for _ in range(4):
        state, _ = training.step(state, X, Y, torch.tensor(1e-3))
        seen.append(state.gates["0.weight"])
    weights = torch.tensor([0.8 ** (4 - i) * 0.2 / (1 - 0.8**4) for i in range(1, 5)])
    assert float(weights.sum()) == pytest.approx(1.0)
    assert_close(
        state.averages["gates"]["0.weight"], (weights[:, None, None] * torch.stack(seen)).sum(0)
    )


def test_running_statistics_are_part_of_the_state():
    fn, params, buffers = l0.make_functional(
        nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    )
    spec = l0.gate_spec(params, {"*.weight": l0.element()})
    rows = l0.per_example(l0.gated(fn, spec))

    def loss(params, gates, buffers, key, x, y):
        output, updated = rows.with_buffers(
            params, gates, buffers, l0.random.split(key, len(x)), x
        )
        return F.cross_entropy(output, y), updated

    training = l0.training(loss, l0.optimizer(ADAM, lr=0.01), l0.optimizer(ADAM, lr=0.1))
    state = training.init(l0.random.key(0), params, l0.init_gates(l0.random.key(1), spec), buffers)
    assert trained(training, state, 3, X, Y).buffers["1.num_batches_tracked"] == 3


def test_a_price_on_a_schedule_is_an_input_of_the_step(net):
    lam, training = l0.schedules.linear(0.0, 0.4, 4), of(net)
    state = other = start(training, net)
    for i in range(4):
        state, _ = training.step(state, X, Y, lam(state.step))
        other, _ = training.step(other, X, Y, torch.tensor(0.1 * i))
    assert_close(tree.leaves(state), tree.leaves(other))


def test_a_temperature_in_pieces_takes_one_state_from_step_to_step(net):
    fn, params, buffers, spec = net
    temperature = l0.schedules.pieces({0: 1.0, 2: 0.25})
    adams = l0.optimizer(ADAM, lr=0.01), l0.optimizer(ADAM, lr=0.1)
    specs = {beta: spec.with_distribution(l0.HardConcrete(beta)) for beta in (1.0, 0.25)}
    steps = {beta: l0.training(loss_of(fn, own), *adams) for beta, own in specs.items()}
    state = start(steps[1.0], net)
    leaves = [t.clone().requires_grad_() for t in (*params.values(), *state.gates.values())]
    named = (
        dict(zip(params, leaves, strict=False)),
        dict(zip(state.gates, leaves[len(params) :], strict=True)),
    )
    theirs = ADAM(
        [
            {"params": leaves[: len(params)], "lr": 0.01},
            {"params": leaves[len(params) :], "lr": 0.1},
        ]
    )
    for i in range(4):
        state, _ = steps[float(temperature(state.step))].step(state, X, Y, torch.tensor(0.1))
        theirs.zero_grad()
        own = specs[1.0] if i < 2 else specs[0.25]
        loss_of(fn, own)(
            *named, buffers, l0.random.fold_in(l0.random.key(0), i), X, Y, torch.tensor(0.1)
        ).backward()
        theirs.step()
    assert_close(list(state.gates.values()), [t.detach() for t in named[1].values()])
    assert_close(list(state.params.values()), [t.detach() for t in named[0].values()])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda net: l0.training(None, l0.optimizer(ADAM), l0.optimizer(torch.optim.AdamW)),
            "pulls gates to log_alpha = 0",
        ),
        (lambda net: of(net, average=1.0), r"in \[0, 1\)"),
        (
            lambda net: of(net, in_dims=(None, None, 0), chunk_size=0),
            "members of a sweep, at least 1",
        ),
        (lambda net: of(net, chunk_size=2), r"goes with in_dims; got 2"),
    ],
)
def test_what_means_nothing_is_refused(net, call, message):
    with pytest.raises(ValueError, match=message):
        call(net)


def test_a_state_of_another_training_is_refused(net):
    plain, averaging, held = (
        of(net),
        of(net, average=0.9),
        of(net, control=l0.lagrangian(net[3], 0.6)),
    )
    for training, other, message in (
        (plain, averaging, "has averages, and this training has none"),
        (averaging, plain, "has no averages, and this training keeps some"),
        (held, plain, "has no controller state"),
        (plain, held, "has controller state"),
    ):
        with pytest.raises(ValueError, match=message):
            training.step(start(other, net), X, Y, torch.tensor(1e-3))
    with pytest.raises(TypeError, match="the state that init or a step returned; got dict"):
        plain.step({}, X)


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (lambda p, g, b, k, x: None, TypeError, "got NoneType"),
        (lambda p, g, b, k, x: 1.0, TypeError, "got float"),
        (lambda p, g, b, k, x: (x.sum(), {}, {}), TypeError, "got tuple"),
        (lambda p, g, b, k, x: p["0.bias"], ValueError, r"of shape \(5,\)"),
        (lambda p, g, b, k, x: p["0.bias"].sum().long(), ValueError, "torch.int64"),
        (
            lambda p, g, b, k, x: (p["0.bias"].sum(), {"accuracy": x.sum()}),
            ValueError,
            "'accuracy' is in the buffers that the loss returned and not",
        ),
        (
            lambda p, g, b, k, x: (p["0.bias"].sum(), {"n": x}),
            ValueError,
            r"'n' of shape \(8, 6\) for \(3,\)",
        ),
    ],
)
@pytest.mark.parametrize("sweep", [False, True])
def test_a_loss_that_is_none_is_refused(net, loss, error, message, sweep):
    adam = l0.optimizer(ADAM)
    single = l0.training(loss, adam, adam)
    state = single.init(
        l0.random.key(0), net[1], {"0.weight": torch.zeros(5, 6)}, {"n": torch.zeros(3)}
    )
    step = single.step
    if sweep:
        step, state = l0.training(loss, adam, adam, in_dims=(None,)).step, l0.stack([state] * 2)
    with pytest.raises(error, match=message):
        step(state, X)


@pytest.mark.parametrize("sweep", [False, True])
def test_a_loss_that_writes_into_its_dicts_leaves_the_state_alone(net, sweep):
    def loss(params, gates, buffers, key, x):
        buffers["n"] = buffers["n"] + 1
        return params["0.bias"].sum() + gates["0.weight"].sum(), buffers

    adam = l0.optimizer(ADAM)
    training = single = l0.training(loss, adam, adam)
    state = single.init(
        l0.random.key(0), net[1], {"0.weight": torch.zeros(5, 6)}, {"n": torch.zeros(3)}
    )
    if sweep:
        training, state = l0.training(loss, adam, adam, in_dims=(None,)), l0.stack([state] * 2)
    for _ in range(2):
        assert (training.step(state, X)[0].buffers["n"] == 1).all()
        assert (state.buffers["n"] == 0).all()


@pytest.mark.parametrize(
    "decaying",
    [
        lambda: l0.optimizer(torch.optim.AdamW, weight_decay=l0.schedules.linear(0.0, 0.5, 10)),
        lambda: l0.optimizer(torch.optim.ASGD),
    ],
)
def test_a_decay_of_gates_by_another_name_is_refused(net, decaying):
    with pytest.raises(ValueError, match="pulls gates to log_alpha = 0"):
        l0.training(loss_of(net[0], net[3]), l0.optimizer(ADAM), decaying())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda net: l0.training(None, ADAM, l0.optimizer(ADAM)),
            r"l0func\.optimizer\(torch\.optim\.Adam, lr=1e-3\); got",
        ),
        (lambda net: of(net, control=0.1), r"control comes from l0func\.lagrangian; got 0\.1"),
        (
            lambda net: of(net, in_dims=0),
            r"an entry for each input, such as \(0, 0, None\); got 0",
        ),
    ],
)
def test_what_is_something_else_is_refused(net, call, message):
    with pytest.raises(TypeError, match=message):
        call(net)
