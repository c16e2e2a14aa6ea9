"""Training over several processes: the loss is reduced, the price counts once, states agree."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import pytest
import torch
from processes import processes
from torch import distributed, nn
from torch.nn import functional as F
from torch.testing import assert_close

import l0func as l0

PARTS = {2: [20, 17], 3: [22, 15, 0]}
ROWS = 37
X = l0.random.normal(l0.random.key(5), (ROWS, 6))
Y = (X[:, :3].argmax(1) + (X[:, 4] > 0)) % 3


def part_of_rank() -> slice:
    rank, parts = distributed.get_rank(), PARTS[distributed.get_world_size()]
    start = sum(parts[:rank])
    return slice(start, start + parts[rank])


def network(with_norm: bool) -> tuple[Any, ...]:
    torch.manual_seed(0)
    norm = [nn.BatchNorm1d(8)] if with_norm else []
    fn, params, buffers = l0.make_functional(
        nn.Sequential(nn.Linear(6, 8), *norm, nn.ReLU(), nn.Linear(8, 3))
    )
    spec = l0.gate_spec(params, {"*weight": l0.element(), "*": None})
    return fn, params, l0.init_gates(l0.random.key(0), spec), buffers, spec


def trainings(net: tuple[Any, ...], settings: dict[str, Any], reduce: Any) -> l0.Training:
    fn, spec = net[0], net[4]
    rows_of = l0.per_example(l0.gated(fn, spec))

    def loss(params, gates, buffers, key, x, y, rows):
        keys = l0.random.row_keys(key, rows)
        if not buffers:
            return F.cross_entropy(rows_of(params, gates, buffers, keys, x), y)
        outputs, new = rows_of.with_buffers(params, gates, buffers, keys, x)
        return F.cross_entropy(outputs, y), new

    kinds = {
        "control": {"control": l0.lagrangian(spec, 0.5, warmup=0)},
        "penalty": {"penalty": lambda params, gates: l0.penalty(params, gates, spec, lam=0.01)},
    }
    chosen: dict[str, Any] = {}
    for name, value in settings.items():
        chosen |= kinds.get(name, {name: value})
    adam = [l0.optimizer(torch.optim.SGD, lr=lr, momentum=0.9) for lr in (0.05, 0.5)]
    return l0.training(loss, *adam, reduce=reduce, average=0.9, **chosen)


def compare_steps(settings: dict[str, Any], with_norm: bool = False) -> Any:
    """The state after five steps, the leaves in bytes; they are one process's to rounding."""
    net = network(with_norm)
    several = trainings(net, settings, l0.all_reduce_mean)
    eager = {name: value for name, value in settings.items() if name != "compile"}
    one = trainings(net, eager, None)
    state = several.init(l0.random.key(1), *net[1:4])
    expected = one.init(l0.random.key(1), *net[1:4])
    if "in_dims" in settings:
        state, expected = (l0.stack([s, s._replace(key=s.key + 1)]) for s in (state, expected))
    own, rows = part_of_rank(), torch.arange(ROWS)
    for _ in range(5):
        state, value = several.step(state, X[own], Y[own], rows[own])
        expected, total = one.step(expected, X, Y, rows)
        if not with_norm:
            # BatchNorm normalises by the rows of a process.
            assert_close(value, total, rtol=1e-5, atol=1e-6)
            assert_close(state, expected, rtol=1e-5, atol=2e-6)
    assert all(t.isfinite().all() for t in state.buffers.values())
    if with_norm:
        assert state.buffers["1.num_batches_tracked"] == 5
    leaves = [state.params, state.gates, state.buffers, state.averages, state.control, value]
    flat, _ = torch.utils._pytree.tree_flatten(leaves)
    return [t.numpy().tobytes() for t in flat if isinstance(t, torch.Tensor)]


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(
    ("settings", "with_norm"),
    [
        ({"penalty": True}, False),
        ({"control": True, "penalty": True, "clip": l0.clip_norm(0.5)}, False),
        ({"control": True}, True),
        ({"penalty": True, "in_dims": (None, None, None)}, False),
    ],
)
def test_every_process_has_the_state_of_one_process_bit_for_bit_alike(size, settings, with_norm):
    if "clip" in settings:
        settings = {name: value for name, value in settings.items() if name != "clip"}
        states = processes(size).run(clipped_steps, settings)
    else:
        states = processes(size).run(compare_steps, settings, with_norm)
    assert all(state == states[0] for state in states)


def clipped_steps(settings: dict[str, Any]) -> Any:
    # A function over gradients has no pickle.
    return compare_steps({**settings, "clip": l0.clip_norm(0.5)})


def compiled_steps(settings: dict[str, Any]) -> Any:
    # The front end is what is tested; torch's own backend takes long from an empty cache.
    compile_anew: Any = torch.compile
    torch.compile = partial(compile_anew, backend="aot_eager")
    try:
        return compare_steps({**settings, "compile": True})
    finally:
        torch.compile = compile_anew


@pytest.mark.compiles
@pytest.mark.slow
def test_a_compiled_step_is_reduced_outside_of_its_graphs():
    first, second = processes(2).run(compiled_steps, {"penalty": True})
    assert first == second


def means() -> None:
    rank, size = distributed.get_rank(), distributed.get_world_size()
    rows = [3, 0, 5][rank]
    weights = torch.tensor([3.0, 0.0, 5.0][:size], dtype=torch.float64)
    values = torch.tensor([1.5, float("nan"), -2.0], dtype=torch.float64)
    expected = (weights[0] * 1.5 + (weights[2] * -2.0 if size > 2 else 0.0)) / weights.sum()
    kinds = (torch.float64, torch.float32, torch.bfloat16, torch.complex64)
    given = {str(d): values[rank].to(d).expand(2, 3) for d in kinds}
    found = l0.all_reduce_mean({**given, "count": torch.tensor([7, 99, 7][rank])}, rows)
    for dtype in kinds:
        assert found[str(dtype)].dtype == dtype
        assert_close(found[str(dtype)], expected.to(dtype).expand(2, 3))
    assert found["count"] == 7
    nothing = l0.all_reduce_mean({"a": torch.full((2,), float("nan"))}, 0)
    assert torch.equal(nothing["a"], torch.zeros(2))
    for wrong, error in ((-1, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="rows"):
            l0.all_reduce_mean({}, wrong)


@pytest.mark.parametrize("size", [2, 3])
def test_a_mean_is_weighted_by_rows_and_ignores_what_a_process_without_rows_holds(size):
    processes(size).run(means)


def test_a_reduce_that_cannot_work_is_named():
    net = network(False)
    alone = trainings(net, {}, l0.all_reduce_mean)
    state = alone.init(l0.random.key(1), *net[1:4])
    with pytest.raises(RuntimeError, match="init_process_group first"):
        alone.step(state, X, Y, torch.arange(ROWS))
    with pytest.raises(TypeError, match="reduce is a function"):
        trainings(net, {}, "mean")
    wrong = trainings(net, {}, lambda tree, rows: tree[0])
    with pytest.raises(ValueError, match="in the tree that reduce returned and not"):
        wrong.step(state, X, Y, torch.arange(ROWS))
    mixed = trainings(net, {}, lambda tree, rows: tree)
    with pytest.raises(ValueError, match=r"its tensors have \[3, 37\] rows"):
        mixed.step(state, (X, Y[:3]), Y, torch.arange(ROWS))


def _step_on(*inputs: Any) -> None:
    """A step whose loss reads no input."""
    params, sgd = {"w": torch.ones(2)}, l0.optimizer(torch.optim.SGD, lr=0.1)
    spec = l0.gate_spec(params)
    training = l0.training(
        lambda params, gates, *rest: (params["w"] * gates["w"]).sum(),
        *(sgd, sgd),
        reduce=lambda tree, rows: tree,
    )
    gates = l0.init_gates(l0.random.key(0), spec)
    training.step(training.init(l0.random.key(1), params, gates, {}), *inputs)


TIME_FIRST, LABELS, WEIGHTS = torch.ones(5, 30, 8), torch.ones(30), torch.ones(3)


@pytest.mark.parametrize(
    "inputs",
    [(TIME_FIRST, LABELS), (WEIGHTS, TIME_FIRST[0], LABELS)],
)
def test_rows_that_later_inputs_count_otherwise_are_warned_of(inputs):
    with pytest.warns(UserWarning, match=r"rows, here [35], .* later inputs have 30 there"):
        _step_on(*inputs)


@pytest.mark.parametrize(
    "inputs",
    [
        (LABELS,),
        (LABELS, TIME_FIRST),
        (TIME_FIRST[0], LABELS, WEIGHTS, WEIGHTS),
        (TIME_FIRST[0], WEIGHTS),
        (torch.tensor(0.5), TIME_FIRST[0], LABELS),
        (torch.ones(0, 8), torch.ones(0)),
    ],
)
def test_other_inputs_beside_the_rows_are_not_warned_of(inputs):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        _step_on(*inputs)
    assert heard == []
