"""Optimizers whose steps do not repeat, or that move a stack's members by each other's numbers."""

from __future__ import annotations

import random

import pytest
import torch
from torch.testing import assert_close

import l0func as l0


class Rule(torch.optim.Optimizer):
    """Moves each leaf by a rule of its own."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})
        self.begin()

    def begin(self):
        pass

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p -= group["lr"] * self.move(p, p.grad, self.state[p])

    def move(self, p, grad, state):
        return grad.sign()


class Normalised(Rule):
    def move(self, p, grad, state):
        return grad / grad.norm()


class Centralised(Rule):
    """It couples the entries of a matrix's row alone."""

    def move(self, p, grad, state):
        dims = tuple(range(1, grad.dim()))
        return grad - grad.mean(dims, keepdim=True) if dims else grad


class TrustRatio(Rule):
    """LAMB: its moments have one number for each entry."""

    def move(self, p, grad, state):
        mean = state.setdefault("mean", torch.zeros_like(p)).lerp_(grad, 0.1)
        return mean * p.norm() / mean.norm().clamp(min=1e-9)


class ClipsLarge(Rule):
    def move(self, p, grad, state):
        return grad * (10 / grad.norm()).clamp(max=1.0)


class DecaysMatrices(Rule):
    """It couples no entries, and takes a stack of vectors for a matrix."""

    def move(self, p, grad, state):
        return grad + 0.1 * p if p.dim() > 1 else grad


class Cautious(Rule):
    """Its mask is of signs, and the share of the mask couples entries."""

    def move(self, p, grad, state):
        mean = state.setdefault("mean", torch.zeros_like(p)).lerp_(grad, 0.1)
        agrees = (mean * grad > 0).to(grad.dtype)
        return mean * agrees / agrees.mean().clamp(min=1e-3)


class Late(Rule):
    def move(self, p, grad, state):
        state["n"] = state.get("n", 0) + 1
        return grad / grad.norm() if state["n"] > 8 else grad


class AllTensors(Rule):
    """One norm over the leaves of its group."""

    def step(self, closure=None):
        (group,) = self.param_groups
        self.norm = torch.stack([p.grad.norm() for p in group["params"]]).norm()
        super().step(closure)
        del self.norm

    def move(self, p, grad, state):
        return grad / self.norm


COUPLING = [
    Normalised,
    Centralised,
    TrustRatio,
    ClipsLarge,
    DecaysMatrices,
    Cautious,
    Late,
    AllTensors,
]
WARMUP = l0.schedules.linear(0.0, 0.1, 50)


def loss(params, gates, buffers, key, scale):
    return scale * (params["w"] * gates["w"].sigmoid()).square().sum()


@pytest.mark.parametrize("lr", [0.1, 1e-9, WARMUP], ids=["usual", "tiny", "from zero"])
@pytest.mark.parametrize("kind", COUPLING)
def test_a_step_that_moves_members_by_each_others_gradients_is_refused_in_a_sweep(kind, lr):
    coupled, adam = l0.optimizer(kind, lr=lr), l0.optimizer(torch.optim.Adam)
    assert not coupled.by_entry
    with pytest.raises(ValueError, match="optimizer of weights couples entries"):
        l0.training(loss, coupled, adam, in_dims=(0,))
    with pytest.raises(ValueError, match="optimizer of gates couples entries"):
        l0.training(loss, adam, coupled, in_dims=(0,))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Rule, {}),
        (Rule, {"lr": WARMUP}),
        (torch.optim.Adam, {"amsgrad": True}),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
        (torch.optim.SGD, {"lr": 0.0}),
        (torch.optim.RMSprop, {"centered": True}),
        (torch.optim.Rprop, {}),
        (torch.optim.NAdam, {}),
        (torch.optim.Adadelta, {}),
    ],
)
def test_an_optimizer_that_works_by_entry_moves_members_as_it_moves_them_alone(kind, settings):
    own = l0.optimizer(kind, **settings)
    params, gates = {"w": torch.tensor([1.0, -2.0, 3.0])}, {"w": torch.zeros(3)}
    init, alone = l0.training(loss, own, own)
    _, together = l0.training(loss, own, own, in_dims=(0,))
    states = [init(l0.random.key(i), params, gates, {}) for i in range(2)]
    stacked, scales = l0.stack(states), torch.tensor([1.0, 100.0])
    for _ in range(4):
        stacked, _ = together(stacked, scales)
        states = [alone(state, scale)[0] for state, scale in zip(states, scales, strict=True)]
    for member, state in zip(l0.unstack(stacked), states, strict=True):
        assert_close(member.params, state.params)
        assert_close(member.gates, state.gates)


def test_a_coupled_optimizer_serves_one_network():
    own, adam = l0.optimizer(AllTensors), l0.optimizer(torch.optim.Adam)
    init, step = l0.training(loss, own, adam)
    state = init(l0.random.key(0), {"w": torch.ones(4)}, {"w": torch.zeros(4)}, {})
    state, _ = step(state, torch.tensor(2.0))
    assert_close(state.params["w"], torch.full((4,), 1 - 0.1 / 2))


class Langevin(Rule):
    def move(self, p, grad, state):
        return grad + 1e-3 * torch.randn_like(p)


class PythonDraw(Rule):
    def move(self, p, grad, state):
        return grad * random.random()


class Dropping(Rule):
    def move(self, p, grad, state):
        return torch.nn.functional.dropout(grad)


class CountsInItsClass(Rule):
    calls = 0

    def move(self, p, grad, state):
        type(self).calls += 1
        return grad / self.calls


class OwnGenerator(Rule):
    def begin(self):
        self.generator = torch.Generator("cpu").manual_seed(0)

    def move(self, p, grad, state):
        noise = torch.randn(p.shape, generator=self.generator, device="cpu")
        return grad + noise.to(p)


class OwnDict(Rule):
    def begin(self):
        self.means = {}

    def move(self, p, grad, state):
        self.means[id(p)] = 0.9 * self.means.get(id(p), 0.0) + grad
        return self.means[id(p)]


class LooksForItsFirstStep(Rule):
    def move(self, p, grad, state):
        if not state:
            state["n"], self.first = 0, [grad]
        return self.first[0]


REPEATED = r"moves equal leaves by other amounts.*draws random numbers"
OUTSIDE = "keeps something outside of its state for each leaf"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Langevin, f"Langevin {REPEATED}"),
        (PythonDraw, f"PythonDraw {REPEATED}"),
        (Dropping, f"Dropping {REPEATED}"),
        (CountsInItsClass, f"CountsInItsClass {REPEATED}"),
        (OwnGenerator, f"OwnGenerator {OUTSIDE}"),
        (OwnDict, f"OwnDict {OUTSIDE}"),
        (LooksForItsFirstStep, f"LooksForItsFirstStep {OUTSIDE}"),
    ],
)
@pytest.mark.parametrize("lr", [0.1, WARMUP], ids=["usual", "from zero"])
def test_a_step_that_does_not_repeat_from_its_state_is_refused(kind, message, lr):
    with pytest.raises(TypeError, match=message):
        l0.optimizer(kind, lr=lr)


class RoundsHalves(Rule):
    """It draws for leaves in half precision alone."""

    def move(self, p, grad, state):
        return grad * (torch.rand_like(p) + 0.5) if p.dtype == torch.bfloat16 else grad


def test_an_optimizer_that_draws_for_leaves_of_one_dtype_is_refused_by_init():
    own, adam = l0.optimizer(RoundsHalves), l0.optimizer(torch.optim.Adam)
    init, _ = l0.training(loss, own, adam)
    weights, gates = {"w": torch.ones(2)}, {"w": torch.zeros(2)}
    assert init(l0.random.key(0), weights, gates, {}).params["w"].dtype == torch.float32
    halves = {"w": torch.ones(2, dtype=torch.bfloat16)}
    with pytest.raises(TypeError, match=f"RoundsHalves {REPEATED}"):
        init(l0.random.key(0), halves, gates, {})


def test_noise_in_the_loss_is_noise_on_the_gradient_and_resumes_bit_for_bit():
    def noisy(params, gates, buffers, key, scale):
        noise = l0.random.normal(key, params["w"].shape)
        return loss(params, gates, buffers, key, scale) + (noise * params["w"]).sum()

    sgd = l0.optimizer(torch.optim.SGD, lr=0.1)
    (init, step), (_, plain) = l0.training(noisy, sgd, sgd), l0.training(loss, sgd, sgd)
    state = init(l0.random.key(0), {"w": torch.ones(3)}, {"w": torch.zeros(3)}, {})
    scale = torch.tensor(1.0)
    moved, _ = step(state, scale)
    noise = l0.random.normal(state.key_of(0), (3,))
    assert_close(moved.params["w"], plain(state, scale)[0].params["w"] - 0.1 * noise)
    assert torch.equal(step(state, scale)[0].params["w"], moved.params["w"])
