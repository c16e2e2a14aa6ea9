"""Sweeps: a stack of networks trains as its members would alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from trainings import ADAM, X, Y, loss_of, network, of, start, trained

import l0func as l0
from l0func.internal import tree
from l0func.internal.context import compiles


@pytest.fixture
def net():
    return network()


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
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


def test_an_optimizer_that_couples_the_members_of_a_sweep_is_refused(net):
    coupled = (
        l0.optimizer(torch.optim.Adafactor)
        if hasattr(torch.optim, "Adafactor")
        else l0.optimizer(ADAM)._replace(by_entry=False)
    )
    adam = l0.optimizer(ADAM)
    l0.training(loss_of(net[0], net[3]), coupled, adam)
    with pytest.raises(ValueError, match="optimizer of weights couples entries"):
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
