"""Training as a function: a torch loop written out, single runs against a sweep, states that go on
where they stopped.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import l0func as l0
from l0func.internal import tree
from l0func.internal.context import compiles

ADAM = torch.optim.Adam
X = l0.random.normal(l0.random.key(10), (8, 6))
Y = torch.arange(8) % 3


@pytest.fixture
def net():
    torch.manual_seed(0)
    fn, params, buffers = l0.make_functional(
        nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    )
    spec = l0.gate_spec(params, {"*.weight": l0.element()})
    return fn, params, buffers, spec


def loss_of(fn, spec):
    rows = l0.per_example(l0.gated(fn, spec))

    def loss(params, gates, buffers, key, x, y, lam):
        output = rows(params, gates, buffers, l0.random.split(key, len(x)), x)
        return F.cross_entropy(output, y) + l0.penalty(params, gates, spec, lam)

    return loss


def trained(training, state, steps, *inputs):
    for _ in range(steps):
        state, _ = training.step(state, *inputs)
    return state


def of(net, **settings):
    return l0.training(
        loss_of(net[0], net[3]),
        l0.optimizer(ADAM, lr=0.01),
        l0.optimizer(ADAM, lr=0.1),
        **settings,
    )


def start(training, net, seed=0):
    _, params, buffers, spec = net
    return training.init(
        l0.random.key(seed), params, l0.init_gates(l0.random.key(100 + seed), spec), buffers
    )


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


def test_averages_weigh_as_their_formula_says(net):
    training = of(net, average=0.8)
    state, seen = start(training, net), []
    for _ in range(4):
        state, _ = training.step(state, X, Y, torch.tensor(1e-3))
        seen.append(state.gates["0.weight"])
    weights = torch.tensor([0.8 ** (4 - i) * 0.2 / (1 - 0.8**4) for i in range(1, 5)])
    assert weights.sum() == pytest.approx(1.0)
    assert_close(
        state.averages["gates"]["0.weight"], (weights[:, None, None] * torch.stack(seen)).sum(0)
    )


@pytest.mark.parametrize("compile", [False, True])
def test_members_of_a_sweep_are_the_single_runs(net, compile):
    if compile and not compiles():
        pytest.skip("this torch has no compiler that the library uses")
    controls = [l0.lagrangian(net[3], target, damping=1.0) for target in (0.5, 0.7, 0.6)]
    lams = torch.tensor([1e-4, 1e-3, 1e-2])
    singles = []
    for i, control in enumerate(controls):
        training = of(net, control=control, average=0.9)
        singles.append(trained(training, start(training, net, i), 10, X, Y, lams[i]))
    sweep = of(net, control=controls[0], average=0.9, in_dims=(None, None, 0), compile=compile)
    states = l0.stack(
        [start(of(net, control=c, average=0.9), net, i) for i, c in enumerate(controls)]
    )
    states = trained(sweep, states, 10, X, Y, lams)
    for single, member in zip(singles, l0.unstack(states), strict=True):
        assert_close(tree.leaves(member), tree.leaves(single), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 5])
def test_members_computed_some_at_a_time_are_those_computed_at_once(net, chunk_size):
    lams, inputs = torch.tensor([1e-4, 1e-3, 1e-2]), torch.stack([X, X + 1, X - 1], dim=1)
    states = l0.stack([start(of(net), net, i) for i in range(3)])
    whole = trained(of(net, in_dims=(1, None, 0)), states, 3, inputs, Y, lams)
    chunks = trained(
        of(net, in_dims=(1, None, 0), chunk_size=chunk_size), states, 3, inputs, Y, lams
    )
    assert_close(tree.leaves(chunks), tree.leaves(whole), rtol=1e-5, atol=1e-6)


def test_running_statistics_of_a_sweep_in_chunks_are_each_members_own():
    torch.manual_seed(0)
    fn, params, buffers = l0.make_functional(
        nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    )
    spec = l0.gate_spec(params, {"*.weight": l0.element()})
    rows, control = l0.per_example(l0.gated(fn, spec)), l0.lagrangian(spec, 0.8)

    def loss(params, gates, buffers, key, x, y):
        output, updated = rows.with_buffers(
            params, gates, buffers, l0.random.split(key, len(x)), x
        )
        return F.cross_entropy(output, y), updated

    adam = l0.optimizer(ADAM, lr=0.01)
    single = l0.training(loss, adam, adam, control=control)
    sweep = l0.training(loss, adam, adam, control=control, in_dims=(None, None), chunk_size=2)
    gates = l0.init_gates(l0.random.key(1), spec)
    starts = [single.init(l0.random.key(seed), params, gates, buffers) for seed in range(3)]
    together = l0.unstack(trained(sweep, l0.stack(starts), 3, X, Y))
    for member, own in zip(together, starts, strict=True):
        assert_close(
            tree.leaves(member), tree.leaves(trained(single, own, 3, X, Y)), rtol=1e-4, atol=1e-5
        )


def test_members_with_a_mask_each_lay_it_out_and_are_the_single_runs(net, monkeypatch):
    fn, _, _, spec = net
    apply = l0.gated(fn, spec)

    def loss(params, gates, buffers, key, x, y):
        return F.cross_entropy(apply(params, gates, buffers, key, x), y)

    adam = l0.optimizer(ADAM, lr=0.01)
    single, sweep = (
        l0.training(loss, adam, adam),
        l0.training(loss, adam, adam, in_dims=(None, None)),
    )
    starts = [start(single, net, i) for i in range(3)]
    # The road for a key a row, which a stack of networks takes at several times the cost.
    monkeypatch.setattr(apply, "stand_ins", None)
    together = l0.unstack(trained(sweep, l0.stack(starts), 3, X, Y))
    for member, own in zip(together, starts, strict=True):
        assert_close(
            tree.leaves(member), tree.leaves(trained(single, own, 3, X, Y)), rtol=1e-5, atol=1e-6
        )


def test_sums_drawn_from_one_key_a_member_are_refused_as_those_of_one_key_are(net):
    fn, _, _, spec = net
    apply, adam = l0.gated(fn, spec, sampling="local_reparam"), l0.optimizer(ADAM, lr=0.01)

    def loss(params, gates, buffers, key, x, y):
        return F.cross_entropy(apply(params, gates, buffers, key, x), y)

    states = l0.stack([start(l0.training(loss, adam, adam), net, i) for i in range(3)])
    with pytest.raises(ValueError, match="no mask that a batch shares"):
        l0.training(loss, adam, adam, in_dims=(None, None)).step(states, X, Y)


def test_a_member_that_diverges_is_named_and_touches_no_other(net):
    training = of(net)
    sweep = of(net, in_dims=(None, None, 0))
    lams = torch.tensor([1e-4, float("nan"), 1e-2])
    states = trained(sweep, l0.stack([start(training, net, i) for i in range(3)]), 3, X, Y, lams)
    assert l0.diverged(states) == [1]
    for i in (0, 2):
        single = trained(training, start(training, net, i), 3, X, Y, lams[i])
        assert_close(tree.leaves(l0.unstack(states)[i]), tree.leaves(single), rtol=1e-4, atol=1e-5)


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


def test_members_at_different_steps_are_no_stack(net):
    training = of(net)
    lam = torch.tensor(1e-3)
    states = [trained(training, start(training, net, i), 1 + i, X, Y, lam) for i in range(2)]
    with pytest.raises(
        ValueError, match=r"at the same step; 'step' is 1 in member 0 and 2 in member 1"
    ):
        l0.stack(states)


def test_a_donated_member_is_its_own(net):
    lam, sweep = torch.tensor(1e-3), of(net, in_dims=(None, None, None))
    states = trained(sweep, l0.stack([start(of(net), net, i) for i in range(3)]), 2, X, Y, lam)
    before = tree.map_tensors(torch.clone, states)
    wanted = [trained(of(net), member, 2, X, Y, lam) for member in l0.unstack(states)]
    got = [trained(of(net, donate=True), member, 2, X, Y, lam) for member in l0.unstack(states)]
    for ours, theirs in zip((*got, states), (*wanted, before), strict=True):
        assert_close(tree.leaves(ours), tree.leaves(theirs), rtol=0, atol=0)
    singles = [trained(of(net), start(of(net), net, i), 2, X, Y, lam) for i in range(2)]
    kept = tree.map_tensors(torch.clone, singles)
    of(net, in_dims=(None, None, None), donate=True).step(l0.stack(singles), X, Y, lam)
    assert_close(tree.leaves(singles), tree.leaves(kept), rtol=0, atol=0)


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_inputs_that_are_pytrees_have_as_many_members(net, chunk_size):
    fn, _, _, spec = net
    apply, adam = l0.gated(fn, spec), l0.optimizer(ADAM, lr=0.01)

    def loss(params, gates, buffers, key, data):
        return F.cross_entropy(apply(params, gates, {}, key, data["x"]), data["y"])

    single = l0.training(loss, adam, adam)
    sweep = l0.training(loss, adam, adam, in_dims=({"y": None, "x": 0},), chunk_size=chunk_size)
    states = l0.stack([start(single, net, i) for i in range(3)])
    with pytest.raises(ValueError, match=r"sweep of 3 members .* input 0 has 6"):
        sweep.step(states, {"x": torch.stack([X] * 6), "y": Y})
    with pytest.raises(ValueError, match=r"sweep of 3 members .* buffers\.n has 6"):
        sweep.step(
            states._replace(buffers={"n": torch.zeros(6)}), {"x": torch.stack([X] * 3), "y": Y}
        )


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
            "has no 'accuracy'",
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
        return params["0.bias"].sum(), buffers

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


def test_an_optimizer_that_couples_the_members_of_a_sweep_is_refused(net):
    coupled = (
        l0.optimizer(torch.optim.Adafactor)
        if hasattr(torch.optim, "Adafactor")
        else l0.optimizer(ADAM)._replace(by_entry=False)
    )
    adam = l0.optimizer(ADAM)
    l0.training(loss_of(net[0], net[3]), coupled, adam)
    with pytest.raises(
        ValueError, match="optimizer of params remembers sums over several entries"
    ):
        l0.training(loss_of(net[0], net[3]), coupled, adam, in_dims=(None, None, 0))


def test_averaged_sgd_takes_a_sweep_apart(net):
    def training(**settings):
        asgd = l0.optimizer(torch.optim.ASGD, lr=0.01, lambd=0.0)
        return l0.training(loss_of(net[0], net[3]), asgd, asgd, **settings)

    lam, starts = torch.tensor(1e-3), [start(training(), net, i) for i in range(2)]
    together = l0.unstack(
        trained(training(in_dims=(None, None, None)), l0.stack(starts), 3, X, Y, lam)
    )
    for member, own in zip(together, starts, strict=True):
        assert_close(
            tree.leaves(member),
            tree.leaves(trained(training(), own, 3, X, Y, lam)),
            rtol=1e-5,
            atol=1e-6,
        )


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


def test_stacks_of_different_length_are_refused(net):
    training, sweep = of(net), of(net, in_dims=(None, None, 0))
    states = l0.stack([start(training, net, i) for i in range(3)])
    with pytest.raises(ValueError, match=r"sweep of 3 members .* input 2 has 2"):
        sweep.step(states, X, Y, torch.ones(2))
    with pytest.raises(ValueError, match=r"sweep of 3 members .* gates\.0\.weight has 2"):
        sweep.step(
            states._replace(gates={name: g[:2] for name, g in states.gates.items()}),
            X,
            Y,
            torch.ones(3),
        )
    with pytest.raises(ValueError, match="3 entries for 2 inputs"):
        sweep.step(states, X, Y)
    with pytest.raises(ValueError, match="sweep of 0 members"):
        sweep.step(start(training, net), X, Y, torch.ones(3))
