"""A training state on disk: going on from it is never having stopped, and a file of another run is
refused.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import l0func as l0
from l0func.internal import tree

pytestmark = pytest.mark.on_cpu
X = l0.random.normal(l0.random.key(10), (8, 6))
Y = torch.arange(8) % 3
SETTINGS = {"lr": 0.01, "targets": (0.5, 0.6)}


@pytest.fixture
def run():
    torch.manual_seed(0)
    fn, params, buffers = l0.make_functional(
        nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    )
    spec = l0.gate_spec(params, {"*.weight": l0.element()})
    control = l0.lagrangian(spec, 0.6)
    rows = l0.per_example(l0.gated(fn, spec))

    def loss(params, gates, buffers, key, x, y):
        output, updated = rows.with_buffers(
            params, gates, buffers, l0.random.split(key, len(x)), x
        )
        return F.cross_entropy(output, y), updated

    adam = l0.optimizer(torch.optim.Adam, lr=0.01)
    training = l0.training(loss, adam, adam, control=control, average=0.9)
    state = training.init(l0.random.key(0), params, l0.init_gates(l0.random.key(1), spec), buffers)
    return training, state, spec


def after(training, state, steps):
    for _ in range(steps):
        state, _ = training.step(state, X, Y)
    return state


def test_saved_loaded_and_continued_is_uninterrupted_bit_for_bit(run, tmp_path):
    training, start, spec = run
    path = tmp_path / "state.safetensors"
    l0.save_state(path, after(training, start, 3), spec, SETTINGS)
    resumed = after(training, l0.load_state(path, start, spec, SETTINGS), 3)
    assert_close(tree.leaves(resumed), tree.leaves(after(training, start, 6)), rtol=0, atol=0)


def test_a_state_without_memory_takes_what_was_saved_on_the_cpu(run, tmp_path):
    training, start, spec = run
    later = after(training, start, 2)
    l0.save_state(tmp_path / "s", later, spec)
    abstract = tree.map_tensors(lambda t: t.to("meta"), start)
    loaded = l0.load_state(tmp_path / "s", abstract, spec)
    assert_close(tree.leaves(loaded), tree.leaves(later), rtol=0, atol=0)


def test_a_state_that_never_stepped_goes_on_too(run, tmp_path):
    training, start, spec = run
    l0.save_state(tmp_path / "s", start, spec)
    loaded = l0.load_state(tmp_path / "s", start, spec)
    assert_close(
        tree.leaves(after(training, loaded, 2)),
        tree.leaves(after(training, start, 2)),
        rtol=0,
        atol=0,
    )


def test_a_stack_is_saved_as_one(run, tmp_path):
    _, start, spec = run
    stacked = l0.stack([start, start])
    l0.save_state(tmp_path / "s", stacked, spec)
    assert_close(
        tree.leaves(l0.load_state(tmp_path / "s", stacked, spec)),
        tree.leaves(stacked),
        rtol=0,
        atol=0,
    )
    with pytest.raises(ValueError, match=r"this run's is"):
        l0.load_state(tmp_path / "s", l0.stack([start] * 3), spec)


def test_a_checkpoint_of_another_configuration_is_refused(run, tmp_path):
    training, start, spec = run
    path = tmp_path / "s"
    l0.save_state(path, after(training, start, 1), spec, SETTINGS)
    with pytest.raises(ValueError, match=r"another configuration: lr was 0\.01 and is 0\.02 here"):
        l0.load_state(path, start, spec, {**SETTINGS, "lr": 0.02})
    with pytest.raises(ValueError, match=r"targets was \[0\.5, 0\.6\] and is not given here"):
        l0.load_state(path, start, spec, {"lr": 0.01})
    other = l0.gate_spec(start.params, {"*.weight": l0.axis(0)})
    with pytest.raises(ValueError, match="another gate spec"):
        l0.load_state(path, start, other, SETTINGS)
    with pytest.raises(ValueError, match=r"control"):
        l0.load_state(path, start._replace(control=None), spec, SETTINGS)


def test_a_truncated_or_foreign_file_is_refused(run, tmp_path):
    _, start, spec = run
    path, cut = tmp_path / "s", tmp_path / "cut"
    l0.save_state(path, start, spec)
    cut.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        l0.load_state(cut, start, spec)
    l0.save(path, start.params, start.gates, start.buffers, spec)
    with pytest.raises(ValueError, match=r"is read by l0func\.load"):
        l0.load_state(path, start, spec)


def test_what_would_load_as_something_else_is_refused(run, tmp_path):
    training, start, spec = run
    path, state = tmp_path / "s", after(training, start, 2)
    l0.save_state(path, state, spec)
    colder = spec.with_distribution(l0.HardConcrete(0.3))
    with pytest.raises(
        ValueError,
        match=r"'0\.weight' is HardConcrete\(.*there and HardConcrete\(temperature=0\.3",
    ):
        l0.load_state(path, start, colder)
    wide = start._replace(params={name: t.double() for name, t in start.params.items()})
    with pytest.raises(ValueError, match=r"as torch\.float32; this run's is torch\.float64"):
        l0.load_state(path, wide, spec)
    moments = {part: dict(of) for part, of in state.moments.items()}
    moments["gates"]["0.weight"] = {}
    l0.save_state(path, state._replace(moments=moments), spec)
    with pytest.raises(ValueError, match=r"remembers nothing of gates\.0\.weight, and"):
        l0.load_state(path, start, spec)
    wrong = {name: torch.zeros(5, 6, 2) for name in ("step", "exp_avg", "exp_avg_sq")}
    moments["gates"] = {name: wrong for name in moments["gates"]}
    l0.save_state(path, state._replace(moments=moments), spec)
    with pytest.raises(ValueError, match="it is another leaf's"):
        l0.load_state(path, start, spec)


def test_only_a_training_state_of_the_spec_is_written(run, tmp_path):
    _, start, spec = run
    with pytest.raises(TypeError, match=r"See l0func\.save"):
        l0.save_state(tmp_path / "s", {"a": torch.zeros(1)}, spec)
    with pytest.raises(TypeError, match="A gate spec comes from"):
        l0.save_state(tmp_path / "s", start, None)
    with pytest.raises(ValueError, match=r"is in the state's gates and not in the spec's"):
        l0.save_state(
            tmp_path / "s", start, l0.gate_spec(start.params, {"0.weight": l0.element()})
        )
    with pytest.raises(ValueError, match=r"of shape \(5,\); the state's is \(5, 6\)"):
        l0.save_state(
            tmp_path / "s",
            start,
            l0.gate_spec(
                start.params,
                {"0.weight": l0.axis(0), "2.weight": l0.axis(1), "1.weight": l0.element()},
            ),
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("saved", "now", "message"),
    [
        ({"clip": None}, {}, "clip was None and is not given here"),
        ({}, {"clip": None}, "clip was not given and is None here"),
        ({"lr": float("nan")}, {"lr": 0.1}, r"lr was nan and is 0\.1 here"),
    ],
)
def test_none_is_a_setting_and_nan_is_another_number(run, tmp_path, saved, now, message):
    _, start, spec = run
    l0.save_state(tmp_path / "s", start, spec, saved)
    l0.load_state(tmp_path / "s", start, spec, saved)
    with pytest.raises(ValueError, match=message):
        l0.load_state(tmp_path / "s", start, spec, now)


def test_a_setting_without_a_form_in_json_is_named(run, tmp_path):
    _, start, spec = run
    with pytest.raises(TypeError, match=r"'target' is tensor\(0\.5000\)"):
        l0.save_state(tmp_path / "s", start, spec, {"lr": 1, "target": torch.tensor(0.5)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adamax])
def test_moments_of_another_optimizer_are_refused(run, tmp_path, kind):
    training, start, spec = run
    l0.save_state(tmp_path / "s", after(training, start, 2), spec)
    loaded = l0.load_state(tmp_path / "s", start, spec)
    other = l0.optimizer(kind, lr=0.01)
    moved = {**start.params}
    with pytest.raises(ValueError, match=r"\['exp_avg', 'exp_avg_sq', 'step'\], the moments of"):
        other.update(moved, loaded.moments["params"], moved, loaded.step)
    empty = other.init(moved)
    own = other.update(moved, empty, moved, loaded.step)[1]
    assert other.update(moved, own, moved, loaded.step)[1].keys() == own.keys()
    if kind is not torch.optim.SGD:
        state = start._replace(moments={**start.moments, "params": own})
        with pytest.raises(ValueError, match="the file is of another optimizer"):
            l0.load_state(tmp_path / "s", state, spec)
