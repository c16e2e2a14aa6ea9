"""An optimizer that a pure step would cut short is refused by name; the others are not."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import l0func as l0


class Grouped(torch.optim.SGD):
    """Its rate grows, and it keeps the count in its group, as Prodigy and D-Adaptation do."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["k"] = group.get("k", 0) + 1
        super().step(closure)


class Counting(torch.optim.SGD):
    def __init__(self, params, lr):
        super().__init__(params, lr=lr)
        self.count = 0

    def step(self, closure=None):
        self.count += 1
        super().step(closure)


class Global(torch.optim.SGD):
    def step(self, closure=None):
        self.state["all"] = {"norm": torch.ones(())}
        super().step(closure)


class Listing(torch.optim.SGD):
    """It keeps a list for each leaf, as Shampoo does."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["factors"] = [torch.ones(2)]
        super().step(closure)


class Nested(Listing):
    def step(self, closure=None):
        super().step(closure)
        for state in self.state.values():
            state["factors"] = {"left": torch.ones(2)}


class Slow(torch.optim.SGD):
    """It keeps slow weights from its third step on."""

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["n"] = state.get("n", 0) + 1
                if state["n"] == 3:
                    state["slow"] = p.detach().clone()


class Constant(torch.optim.SGD):
    """Its step adds a setting that never changes."""

    def step(self, closure=None):
        self.warned = True
        for group in self.param_groups:
            group.setdefault("power", 2)
        super().step(closure)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Grouped, r"Grouped changes its own \"param_groups\[0\]\['k'\]\""),
        (Counting, "Counting changes its own 'count'"),
        (Global, "Global keeps state under 'all'"),
        (Listing, "Listing keeps 'factors', a list"),
        (Nested, "keeps 'factors', a (list|dict)"),
    ],
)
def test_what_a_pure_step_would_lose_is_named(kind, message):
    with pytest.raises(TypeError, match=message):
        l0.optimizer(kind, lr=0.1)


@pytest.mark.parametrize("kind", [Slow, Constant])
def test_what_is_kept_by_leaf_is_carried(kind):
    ours = l0.optimizer(kind, lr=0.1)
    leaves, moments = {"w": torch.ones(2)}, ours.init({"w": torch.ones(2)})
    leaf = torch.ones(2)
    theirs = kind([leaf], lr=0.1)
    for i in range(5):
        grads = {"w": torch.full((2,), float(i))}
        leaf.grad = grads["w"].clone()
        theirs.step()
        leaves, moments = ours.update(grads, moments, leaves, torch.tensor(i))
    assert_close(leaves["w"], leaf)
    kept = {name: v for name, v in theirs.state[leaf].items() if v is not None}
    assert_close(moments["w"], {name: torch.as_tensor(v) for name, v in kept.items()})


def adam(**settings):
    return l0.optimizer(torch.optim.Adam, lr=0.1, **settings)


def momentum():
    return l0.optimizer(torch.optim.SGD, lr=0.1, momentum=0.9)


def plain():
    return l0.optimizer(torch.optim.SGD, lr=0.1)


@pytest.mark.parametrize(
    ("before", "after", "works"),
    [
        (adam, plain, False),
        (adam, momentum, False),
        (momentum, adam, False),
        (momentum, plain, False),
        (lambda: adam(amsgrad=True), adam, False),
        (adam, lambda: adam(amsgrad=True), False),
        (adam, lambda: l0.optimizer(torch.optim.AdamW, lr=0.1), True),
        (plain, adam, True),
        (momentum, momentum, True),
    ],
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_moments_go_on_in_an_optimizer_that_keeps_the_same(before, after, works, shape):
    leaves = {"w": torch.ones(shape)}
    first, second = before(), after()
    leaves, moments = first.update(leaves, first.init(leaves), leaves, torch.tensor(0))
    if works:
        second.update(leaves, moments, leaves, torch.tensor(1))
        return
    with pytest.raises(ValueError, match="moments of another optimizer or of other settings"):
        second.update(leaves, moments, leaves, torch.tensor(1))
