"""The nine laws of the library, on random module trees with random rules, dtypes and gates."""

from __future__ import annotations

import copy
import math
import warnings
from pathlib import Path

import oracles
import pytest
import torch
from comparing import equal
from hypothesis import given
from hypothesis import strategies as st
from random_nets import SHRINKING, Problem, examples, problems, trees

import l0func as l0
from l0func.internal import tree


def rows_of(p: Problem):
    return l0.per_example(l0.gated(p.fn, p.spec))


def total(output):
    return (output.double() ** 2).sum()


def without_dropout(p: Problem) -> Problem:
    """The same problem in eval mode: the laws of products, without the draws of a module."""
    return _in_mode(p, training=False)


def in_training(p: Problem) -> Problem:
    """The same problem in training mode, in which norms change their buffers."""
    return _in_mode(p, training=True)


def _in_mode(p: Problem, training: bool) -> Problem:
    module = copy.deepcopy(p.module).train(training)
    fn, params, buffers = l0.make_functional(module)
    return p._replace(module=module, fn=fn, params=params, buffers=buffers)


def pure(p: Problem, data) -> None:
    """Law 1: no argument, module or global state changes."""
    p = in_training(p)
    arguments = (p.params, p.gates, p.buffers, p.keys, p.x)
    before, state = copy.deepcopy(arguments), torch.get_rng_state()
    own = copy.deepcopy(p.module.state_dict())
    first, _ = rows_of(p).with_buffers(*arguments)
    second, _ = rows_of(p).with_buffers(*arguments)
    assert equal(first, second)
    assert equal(before, arguments)
    assert equal(own, p.module.state_dict())
    assert torch.equal(state, torch.get_rng_state())


def same_draws(p: Problem, data) -> None:
    """Law 2: a mask depends on the key and its own name, and on nothing else."""
    key = p.keys[0]
    masks = l0.sample_masks(key, p.gates, p.spec)
    one = data.draw(st.sampled_from([gate.name for gate in p.spec.gates]))
    plan = next(plan for plan in p.spec.parameters if plan.path == one)
    rules = {path: None for path in p.params} | {one: plan.bindings[0].rule}
    of_one = next(gate.distribution for gate in p.spec.gates)
    alone = l0.gate_spec(p.params, rules, distribution=of_one)
    assert torch.equal(l0.sample_masks(key, {one: p.gates[one]}, alone)[one], masks[one])
    mapped = torch.vmap(lambda k: l0.sample_masks(k, p.gates, p.spec))(p.keys.flip(0))
    for name, mask in masks.items():
        torch.testing.assert_close(mapped[name][-1], mask, rtol=5e-7, atol=5e-7)
        assert torch.equal(mapped[name][-1] == 0, mask == 0)


def rows_are_single_calls(p: Problem, data) -> None:
    """Law 3: a row is a batch of one with its key."""
    output = rows_of(p)(p.params, p.gates, p.buffers, p.keys, p.x)
    apply = l0.gated(p.fn, p.spec)
    for i, key in enumerate(p.keys):
        alone = apply(p.params, p.gates, p.buffers, key, p.x[i : i + 1])[0]
        torch.testing.assert_close(output[i], alone, **p.tolerance)


def averages_are_expectations(p: Problem, data) -> None:
    """Law 4: over many keys, masks average to their means and open entries to their numbers."""
    keys = l0.random.split(l0.random.key(data.draw(st.integers(0, 2**30))), 300)
    masks = torch.vmap(lambda k: l0.sample_masks(k, p.gates, p.spec))(keys)
    means = l0.mean_masks(p.gates, p.spec)
    squares, count = torch.zeros(300).double(), torch.zeros(300).double()
    for name, drawn in masks.items():
        z = drawn.double()
        # Half of the width is the most that a mean in [0, 1] can deviate by.
        error = (z.mean(0) - means[name]).abs() * math.sqrt(300)
        assert (error <= 6 * z.std(0) + 0.4).all()
        # A mask has the sizes of its rule; entries are the parameter's.
        entries = z.expand(300, *p.params[name].shape)
        count += (entries != 0).flatten(1).sum(1)
        squares += ((z * p.params[name].double()) ** 2).flatten(1).sum(1)
    within(count, float(l0.expected_l0(p.gates, p.spec)))
    within(squares, float(l0.expected_l2(p.params, p.gates, p.spec)))


def within(draws, expected: float) -> None:
    """The mean of draws is the expected number, to six standard errors."""
    error = abs(float(draws.mean()) - expected) * math.sqrt(len(draws))
    assert error <= 6 * float(draws.std()) + 1e-4 * abs(expected)


def fast_is_plain(p: Problem, data) -> None:
    """Law 5: outputs and slopes in rows are those of masks laid out, by torch's own module."""
    p = without_dropout(p)

    def fast(params, gates, x):
        return total(rows_of(p)(params, gates, p.buffers, p.keys, x))

    def plain(params, gates, x):
        found = 0.0
        for i, key in enumerate(p.keys):
            masked = l0.apply_masks(params, l0.sample_masks(key, gates, p.spec))
            state = {**masked, **p.buffers}
            row = torch.func.functional_call(p.module, state, (x[i : i + 1],))
            found = found + total(row)
        return found

    ours = torch.func.grad_and_value(fast, (0, 1, 2))(p.params, p.gates, p.x)
    theirs = torch.func.grad_and_value(plain, (0, 1, 2))(p.params, p.gates, p.x)
    tolerance = {"rtol": 5e-3, "atol": 5e-3} if p.x.dtype == torch.float32 else {}
    torch.testing.assert_close(ours, theirs, **(tolerance or p.tolerance))


def is_gone(plan, gates, pruned) -> bool:
    behind = {binding.gate for binding in plan.bindings}
    return sum(gates[name].numel() for name in behind) > 1 and not pruned[plan.path].any()


def reports_are_true(p: Problem, data) -> None:
    """Law 6: the summary counts what prune keeps, by the oracle's loop over entries.

    Parameters of several gates of which nothing is left are named in both their warnings.
    """
    estimator = data.draw(st.sampled_from(["louizos", "median", "mean"]))
    ones = {path: torch.ones_like(t) for path, t in p.params.items()}
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        pruned = l0.prune(ones, p.gates, p.spec, estimator)
        report = l0.summary(ones, p.gates, p.spec, estimator)
    gone = [plan.path for plan in p.spec.gated() if is_gone(plan, p.gates, pruned)]
    assert len(heard) == (2 if gone else 0)
    # A warning names four parameters and counts the others.
    assert all(repr(path) in str(warning.message) for warning in heard for path in gone[:4])
    kept = sum(int((t != 0).sum()) for t in pruned.values())
    assert report.total.realised_open == kept
    fixed = {}
    for gate in p.spec.gates:
        z = gate.distribution.deterministic(p.gates[gate.name], estimator)
        fixed[gate.name] = z.flatten().tolist()
    counted = 0
    for plan, entry in oracles.entries(p.spec):
        here = oracles.factors(plan, entry, lambda name, i: fixed[name][i] != 0, lambda *_: 1)
        counted += bool(here)
    free = sum(math.prod(plan.shape) for plan in p.spec.parameters if not plan.bindings)
    assert counted + free == kept


def continued_is_uninterrupted(p: Problem, data) -> None:
    """Law 8: saved, loaded and continued has the bits of never stopping."""
    p = in_training(p)
    rows = rows_of(p)

    def loss(params, gates, buffers, key, x):
        output, state = rows.with_buffers(params, gates, buffers, l0.random.split(key, len(x)), x)
        return total(output) + l0.penalty(params, gates, p.spec, 0.01), state

    kind = data.draw(st.sampled_from([torch.optim.Adam, torch.optim.SGD, torch.optim.RMSprop]))
    optimizer = l0.optimizer(kind, lr=0.01)
    training = l0.training(loss, optimizer, optimizer)
    start = training.init(l0.random.key(3), p.params, p.gates, p.buffers)
    whole, _ = training.step(start, p.x)
    stopped = whole
    path = Path(data.folder) / "state"
    l0.save_state(path, stopped, p.spec)
    resumed, _ = training.step(l0.load_state(path, start, p.spec), p.x)
    whole, _ = training.step(whole, p.x)
    assert equal(tree.leaves(resumed), tree.leaves(whole))


def everything_composes(p: Problem, data) -> None:
    """Law 9: models map like a loop over them; slopes forward, backward and twice agree."""

    def loss(params, gates, keys):
        return total(rows_of(p)(params, gates, p.buffers, keys, p.x))

    other = {name: t + 0.1 for name, t in p.gates.items()}
    gates = {name: torch.stack([t, other[name]]) for name, t in p.gates.items()}
    both = torch.vmap(loss, in_dims=(None, 0, None))(p.params, gates, p.keys)
    loop = torch.stack([loss(p.params, g, p.keys) for g in (p.gates, other)])
    torch.testing.assert_close(both, loop, **p.tolerance)

    along = {name: torch.full_like(t, 0.5) for name, t in p.gates.items()}

    def of_gates(gates):
        return loss(p.params, gates, p.keys)

    _, forward = torch.func.jvp(of_gates, (p.gates,), (along,))
    slope = torch.func.grad(of_gates)
    slopes = slope(p.gates)
    backward = sum((slopes[name].double() * 0.5).sum() for name in slopes)
    torch.testing.assert_close(forward.double(), backward, **p.tolerance)

    def directional(gates):
        return sum((t * 0.5).sum() for t in slope(gates).values())

    _, ahead = torch.func.jvp(slope, (p.gates,), (along,))
    twice = torch.func.grad(directional)(p.gates)
    torch.testing.assert_close(ahead, twice, **p.tolerance)


LAWS = (
    pure,
    same_draws,
    rows_are_single_calls,
    averages_are_expectations,
    fast_is_plain,
    reports_are_true,
    continued_is_uninterrupted,
    everything_composes,
)


def check(law, number, folder) -> None:
    @examples(number)
    @given(problems(), st.data())
    def run(p, data):
        data.folder = folder
        law(p, data)

    run()


def smaller_is_pruned(number) -> None:
    """Law 7: the compacted network equals the pruned one, with the announced entries."""
    compacted = []

    @examples(number)
    @given(
        trees(SHRINKING),
        st.integers(0, 2**16),
        st.sampled_from([0.2, 0.5, 0.9]),
    )
    def run(module, seed, share):
        module.eval()
        fn, params, buffers = l0.make_functional(module)
        dtype = next(iter(params.values())).dtype
        x = l0.random.normal(l0.random.key(seed), (3, 3, 4)).to(dtype)
        try:
            groups = l0.unit_groups(module, x)
        except ValueError as error:
            if "No units of this" not in str(error):
                raise
            return
        compacted.append(len(groups))
        spec = l0.gate_spec(params, groups=groups, buffers=buffers)
        gates = {}
        for gate in spec.gates:
            u = l0.random.uniform(l0.random.key(seed + 1), gate.shape)
            # Open gates have the value 1, or one between 0 and 1.
            opened = torch.where(u < share / 2, 4.0, 0.4)
            gates[gate.name] = torch.where(u < share, opened, -20.0).to(gate.dtype)
            gates[gate.name].view(-1)[0] = 4.0
        expected = fn(l0.prune(params, gates, spec), buffers, x)
        small, less, state = l0.compact(fn, params, gates, buffers, spec, example_inputs=x)
        tolerance = {"rtol": 2e-3, "atol": 2e-4} if dtype == torch.float32 else {}
        torch.testing.assert_close(small(less, state, x), expected, **tolerance)
        # Whoever folds idle units only makes it smaller still.
        announced = l0.summary(params, gates, spec).total.realised_open
        assert sum(t.numel() for t in less.values()) <= announced

    run()
    # A third of the networks has units that can go.
    assert len(compacted) > number / 3


# A device of pretence runs every operation in Python: the other laws take many minutes there.
ELSEWHERE = (pure, same_draws)
CASES = [
    pytest.param(law, id=law.__name__, marks=[] if law in ELSEWHERE else pytest.mark.on_cpu)
    for law in LAWS
]


@pytest.mark.parametrize("law", CASES)
def test_a_law_holds_for_twenty_networks(law, tmp_path):
    check(law, 20, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("law", CASES)
def test_a_law_holds_for_five_hundred_networks(law, tmp_path):
    check(law, 500, tmp_path)


@pytest.mark.on_cpu
@pytest.mark.parametrize("number", [20, pytest.param(500, marks=pytest.mark.slow)])
def test_smaller_networks_equal_pruned_ones(number):
    smaller_is_pruned(number)
