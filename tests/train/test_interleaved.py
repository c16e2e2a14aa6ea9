"""Save, load, train, prune, compact and copy in any order, against a model of plain tensors.

The model is a two-layer network in plain torch: its numbers, masks by their written definition,
and gradient descent by hand. After every step the library has the model's numbers.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from random_nets import examples

import l0func as l0
from l0func.internal import tree

pytestmark = pytest.mark.on_cpu
UNITS, RATE, LAM = 5, 0.1, 0.02
X = l0.random.normal(l0.random.key(9), (4, 3)).double()
DISTRIBUTION = l0.HardConcrete()


def module_of(units=UNITS):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(3, units), nn.ReLU(), nn.Linear(units, 2)).double()


FN, PARAMS, _ = l0.make_functional(module_of())
GROUP = l0.group({"2.weight": l0.axis(1)}, owns={"0.weight": l0.axis(0), "0.bias": l0.axis(0)})
SPEC = l0.gate_spec(PARAMS, {"0.weight": None}, groups={"units": GROUP})
APPLY = l0.gated(FN, SPEC)


def loss(params, gates, buffers, key, x):
    output = APPLY(params, gates, buffers, key, x)
    return (output**2).mean() + LAM * l0.expected_l0(gates, SPEC) / 10


SGD = l0.optimizer(torch.optim.SGD, lr=RATE)
TRAINING = l0.training(loss, SGD, SGD)


class Plain:
    """The same network in plain tensors: weights, gate locations and a key."""

    def __init__(self, state):
        self.params = {name: t.clone() for name, t in state.params.items()}
        self.gates = {name: t.clone() for name, t in state.gates.items()}
        self.step = int(state.step)

    def output(self, params, z):
        hidden = torch.relu(X @ params["0.weight"].T + params["0.bias"])
        return (hidden * z) @ params["2.weight"].T + params["2.bias"]

    def opened(self, la):
        beta, gamma, zeta = DISTRIBUTION.temperature, DISTRIBUTION.gamma, DISTRIBUTION.zeta
        return torch.sigmoid(la - beta * torch.log(torch.tensor(-gamma / zeta)).double())

    def fixed(self):
        z = torch.sigmoid(self.gates["units"].double()) * 1.2 - 0.1
        return z.clamp(0, 1)

    def train(self, key):
        """A step of gradient descent on the mask that the key draws."""
        params = {name: t.clone().requires_grad_() for name, t in self.params.items()}
        la = self.gates["units"].clone().requires_grad_()
        u = l0.random.uniform(l0.random.fold_in(key, number_of("units")), (UNITS,))
        s = torch.sigmoid((torch.logit(u.to(la.dtype)) + la) / DISTRIBUTION.temperature)
        z = (s * 1.2 - 0.1).clamp(0, 1)
        price = sum(self.opened(la.double())) * 6
        value = (self.output(params, z.double()) ** 2).mean() + LAM * price / 10
        grads = torch.autograd.grad(value, [*params.values(), la])
        for (name, t), grad in zip(self.params.items(), grads, strict=False):
            self.params[name] = t - RATE * grad
        self.gates = {"units": self.gates["units"] - RATE * grads[-1]}
        self.step += 1


def number_of(name):
    """A gate's number for fold_in, as the design page defines it."""
    from hashlib import sha256

    return int.from_bytes(sha256(name.encode()).digest()[:8], "little", signed=True)


class Interleaved(RuleBasedStateMachine):
    """A run, a store of files, and their models."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        gates = {"units": torch.tensor([-2.2, -1.0, 0.3, 0.9, 2.0])}
        self.state = TRAINING.init(l0.random.key(4), PARAMS, gates, {})
        self.model = Plain(self.state)
        self.files: dict[int, Plain] = {}
        self.copies: list[tuple[l0.TrainState, Plain]] = []

    def path(self, number):
        return Path(self.folder.name) / f"state {number}"

    @rule(steps=st.integers(1, 3))
    def train(self, steps):
        for _ in range(steps):
            keys = []

            def noted(params, gates, buffers, key, x, keys=keys):
                keys.append(key)
                return loss(params, gates, buffers, key, x)

            self.state, _ = l0.training(noted, SGD, SGD).step(self.state, X)
            self.model.train(keys[0].detach().clone())

    @rule(number=st.integers(0, 2))
    def save(self, number):
        l0.save_state(self.path(number), self.state, SPEC)
        self.files[number] = copy.deepcopy(self.model)

    @rule(number=st.integers(0, 2))
    def load(self, number):
        if number not in self.files:
            with pytest.raises(FileNotFoundError):
                l0.load_state(self.path(number), self.state, SPEC)
            return
        self.state = l0.load_state(self.path(number), self.state, SPEC)
        self.model = copy.deepcopy(self.files[number])

    @rule()
    def through_a_network_file(self):
        path = Path(self.folder.name) / "network"
        l0.save(path, self.state.params, self.state.gates, {}, SPEC)
        saved = l0.load(path)
        assert saved.spec == SPEC
        self.state = self.state._replace(params=saved.params, gates=saved.gates)

    @rule()
    def take_a_copy(self):
        self.copies.append((copy.deepcopy(self.state), copy.deepcopy(self.model)))

    @rule()
    def go_back_to_a_copy(self):
        if self.copies:
            self.state, self.model = self.copies.pop()

    @rule()
    def prune(self):
        """From here on the parameters are the pruned ones, in place of the trained."""
        z = self.model.fixed()
        pruned = l0.prune(self.state.params, self.state.gates, SPEC)
        is_open = (z > 0).double()
        self.model.params["2.weight"] = self.model.params["2.weight"] * z
        for name in ("0.weight", "0.bias"):
            row = is_open[:, None] if name.endswith("weight") else is_open
            self.model.params[name] = self.model.params[name] * row
        self.state = self.state._replace(params=pruned)

    @rule()
    def compact(self):
        """A smaller network has the open units, and the pruned network's outputs."""
        z = self.model.fixed()
        small, less, buffers = l0.compact(FN, self.state.params, self.state.gates, {}, SPEC)
        kept = int((z > 0).sum())
        assert less["0.weight"].shape == (kept, 3)
        expected = self.model.output(self.model.params, z)
        torch.testing.assert_close(small(less, buffers, X), expected, rtol=1e-5, atol=1e-6)
        module = copy.deepcopy(l0.to_module(small, less, buffers))
        torch.testing.assert_close(module(X), expected, rtol=1e-5, atol=1e-6)

    @invariant()
    def the_library_has_the_models_numbers(self):
        own = {**self.state.params, **self.state.gates}
        theirs = {**self.model.params, **self.model.gates}
        torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-5)
        assert int(self.state.step) == self.model.step
        z = self.model.fixed()
        found = l0.summary(self.state.params, self.state.gates, SPEC)["2.weight"]
        assert found.realised_open == 2 * int((z > 0).sum())

    @invariant()
    def the_original_and_the_copies_stay(self):
        assert all(
            torch.equal(t, self_t) for t, self_t in zip(PARAMS.values(), START, strict=True)
        )
        for state, model in self.copies:
            close = {name: model.params[name] for name in state.params}
            torch.testing.assert_close(dict(state.params), close, rtol=1e-4, atol=1e-5)

    def teardown(self):
        self.folder.cleanup()


START = [t.clone() for t in PARAMS.values()]


@pytest.mark.parametrize("number", [10, pytest.param(300, marks=pytest.mark.slow)])
def test_calls_in_any_order_agree_with_plain_tensors(number):
    chosen = settings(examples(number), stateful_step_count=20)
    assert tree.leaves(TRAINING.init(l0.random.key(4), PARAMS, {"units": torch.zeros(5)}, {}))
    run_state_machine_as_test(Interleaved, settings=chosen)
