"""Optimizers with Python numbers in their state: the numbers survive steps, files and stacks."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import l0func as l0
from l0func.internal import tree

X = torch.tensor([1.0, -2.0, 0.5])


class Counting(torch.optim.Optimizer):
    """Gradient descent with a rate that falls with a count, a product and a switch."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})

    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                self.move(p, group["lr"])

    @torch.no_grad()
    def move(self, p, lr):
        state = self.state[p]
        if not state:
            state.update(count=0, product=1.0, late=False, history=torch.zeros_like(p))
        assert [type(state[name]) for name in ("count", "product", "late")] == [int, float, bool]
        state["count"] += 1
        state["product"] *= 0.9
        state["history"] += p.grad
        p -= lr * state["product"] / state["count"] * p.grad
        if state["late"]:
            p -= 0.01 * state["history"]
        state["late"] = state["count"] >= 2


class Clipping(Counting):
    """An optimizer with a number that depends on the gradients of all entries."""

    def move(self, p, lr):
        super().move(p, lr)
        self.state[p]["norm"] = float(p.grad.norm())


def params():
    return {"w": torch.tensor([1.0, 2.0, 3.0]), "scale": torch.tensor(0.5)}


def gates():
    return {"w": torch.tensor([2.0, -1.0, 0.0])}


def loss(params, gates, buffers, key, x):
    product = params["w"] * params["scale"] * x
    return (product - gates["w"]).square().sum()


def of(kind=Counting, **settings):
    own = l0.optimizer(kind, lr=0.1)
    return l0.training(loss, own, own, **settings)


def start(training, seed=0):
    weights = {path: p + 0.1 * seed for path, p in params().items()}
    return training.init(l0.random.key(seed), weights, gates(), {})


def trained(training, state, steps):
    for _ in range(steps):
        state, _ = training.step(state, X)
    return state


def spec():
    return l0.gate_spec(params(), {"w": l0.element()})


def assert_same(one, other):
    assert_close(tree.leaves(one), tree.leaves(other), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [Counting, torch.optim.RMSprop, torch.optim.Rprop])
def test_steps_with_numbers_are_the_torch_loop_written_out(kind):
    state = trained(of(kind), start(of(kind)), 5)
    weights, log_alpha = params(), gates()
    leaves = [t.requires_grad_() for t in (*weights.values(), *log_alpha.values())]
    theirs = kind(leaves, lr=0.1)
    for _ in range(5):
        theirs.zero_grad()
        loss(weights, log_alpha, {}, None, X).backward()
        theirs.step()
    assert_close(state.params, {path: t.detach() for path, t in weights.items()})
    assert_close(state.gates, {path: t.detach() for path, t in log_alpha.items()})


def test_a_number_is_kept_exactly_as_a_tensor_of_no_dimension():
    moments = trained(of(), start(of()), 3).moments["params"]["w"]
    assert torch.equal(moments["count"], torch.tensor(3))
    product = torch.tensor(0.9 * 0.9 * 0.9, dtype=torch.float64)
    assert torch.equal(moments["product"], product)
    assert torch.equal(moments["late"], torch.tensor(True))


@pytest.mark.parametrize("donate", [False, True])
def test_numbers_saved_loaded_and_continued_are_uninterrupted_bit_for_bit(tmp_path, donate):
    pytest.importorskip("safetensors")
    training = of(donate=donate)
    l0.save_state(tmp_path / "s", trained(training, start(training), 2), spec())
    resumed = l0.load_state(tmp_path / "s", start(training), spec())
    assert_same(trained(training, resumed, 3), trained(training, start(training), 5))


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_stack_shares_numbers_and_its_members_are_the_single_runs(steps):
    singles = [trained(of(), start(of(), seed), steps) for seed in range(3)]
    states = trained(of(in_dims=(None,)), l0.stack(singles), 3)
    for path in ("w", "scale"):
        assert states.moments["params"][path]["count"].shape == ()
        assert len(states.moments["params"][path]["history"]) == 3
    for member, single in zip(l0.unstack(states), singles, strict=True):
        assert_close(tree.leaves(member), tree.leaves(trained(of(), single, 3)))


def test_a_stack_with_numbers_is_saved_and_goes_on_bit_for_bit(tmp_path):
    pytest.importorskip("safetensors")
    sweep, states = of(in_dims=(None,)), l0.stack([start(of(), seed) for seed in range(3)])
    l0.save_state(tmp_path / "s", trained(sweep, states, 2), spec())
    resumed = l0.load_state(tmp_path / "s", states, spec())
    assert_same(trained(sweep, resumed, 2), trained(sweep, states, 4))


def test_members_with_different_numbers_are_no_stack():
    first, second = (trained(of(), start(of()), steps) for steps in (1, 2))
    with pytest.raises(ValueError, match=r"moments\.params\.w\.count' is 1 in member 0 and 2"):
        l0.stack([first, second._replace(step=first.step)])


def test_a_number_that_depends_on_gradients_is_refused_in_a_sweep_only():
    training = of(Clipping)
    assert trained(training, start(training), 2).moments["params"]["w"]["norm"] > 0
    with pytest.raises(ValueError, match="couples entries"):
        of(Clipping, in_dims=(None,))
