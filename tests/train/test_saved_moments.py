"""A checkpoint of one optimizer is refused by every other at load, and taken by its own."""

from __future__ import annotations

import re
from itertools import starmap
from typing import Any

import pytest
import torch
from sampled import one_in, sampled

import l0func as l0

W = {"w": torch.ones(2, 3), "b": torch.ones(2)}
SPEC = l0.gate_spec(W)
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "SGD": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "dampening": (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.1}),
    "Adam": (torch.optim.Adam, {}),
    "AMSGrad": (torch.optim.Adam, {"amsgrad": True}),
    "RMSprop": (torch.optim.RMSprop, {}),
    "centered": (torch.optim.RMSprop, {"centered": True}),
    "Adagrad": (torch.optim.Adagrad, {}),
}
if hasattr(torch.optim, "Adafactor"):
    # It remembers other things of a matrix than of a vector.
    KINDS["Adafactor"] = (torch.optim.Adafactor, {})
# Both remember a momentum_buffer and nothing else: names cannot tell them apart.
ALIKE = [{"momentum", "dampening"}]
PAIRS = [(a, b) for a in KINDS for b in KINDS if a != b and {a, b} not in ALIKE]


def _loss(params: Any, gates: Any, buffers: Any, key: Any) -> Any:
    return sum(((t - 3) ** 2).sum() for t in [*params.values(), *gates.values()])


def _training(weights: str, gates: str = "Adam", **settings: Any) -> Any:
    own = [l0.optimizer(kind, lr=0.1, **chosen) for kind, chosen in (KINDS[weights], KINDS[gates])]
    return l0.training(_loss, *own, **settings)


def _state(training: Any, steps: int) -> Any:
    gates = l0.init_gates(l0.random.key(0), SPEC)
    return _after(training, training.init(l0.random.key(1), W, gates, {}), steps)


def _after(training: Any, state: Any, steps: int) -> Any:
    for _ in range(steps):
        state, _ = training.step(state)
    return state


@pytest.mark.parametrize(("saved", "own"), sampled(starmap(pytest.param, PAIRS), one_in(3)))
@pytest.mark.parametrize("steps", [0, 2])
def test_another_optimizer_is_refused_at_load(saved, own, steps, tmp_path):
    l0.save_state(tmp_path / "s", _state(_training(saved), 2), SPEC)
    words = r"remembers (\[.*\]|nothing) of params\.w, .* (\[.*\]|no moments): .*of another opt"
    with pytest.raises(ValueError, match=words):
        l0.load_state(tmp_path / "s", _state(_training(own), steps), SPEC)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("own_steps", [0, 3])
def test_an_optimizer_goes_on_from_its_own_checkpoint(kind, steps, own_steps, tmp_path):
    training = _training(kind, kind)
    whole = _after(training, _state(training, steps), 2)
    l0.save_state(tmp_path / "s", _state(training, steps), SPEC)
    loaded = l0.load_state(tmp_path / "s", _state(training, own_steps), SPEC)
    # What was loaded is a state to load into, too.
    l0.save_state(tmp_path / "later", _after(training, loaded, 1), SPEC)
    later = l0.load_state(tmp_path / "later", loaded, SPEC)
    found = _after(training, later, 1)
    for name in W:
        assert torch.equal(whole.params[name], found.params[name])
        assert torch.equal(whole.gates[name], found.gates[name])


def test_an_optimizer_of_the_gates_is_refused_too(tmp_path):
    l0.save_state(tmp_path / "s", _state(_training("SGD", "Adam"), 1), SPEC)
    with pytest.raises(ValueError, match=r"exp_avg.* of gates\.w, .* has no moments"):
        l0.load_state(tmp_path / "s", _state(_training("SGD", "SGD"), 0), SPEC)


def test_moments_of_a_leaf_that_does_not_move_here_are_refused(tmp_path):
    l0.save_state(tmp_path / "s", _state(_training("Adam"), 1), SPEC)
    few = _state(_training("Adam", trainable="w"), 0)
    with pytest.raises(ValueError, match=r"of params\.b, which does not move in this run"):
        l0.load_state(tmp_path / "s", few, SPEC)
    l0.save_state(tmp_path / "few", _state(_training("Adam", trainable="w"), 1), SPEC)
    with pytest.raises(ValueError, match=re.escape("remembers nothing of params.b")):
        l0.load_state(tmp_path / "few", _state(_training("Adam"), 0), SPEC)
