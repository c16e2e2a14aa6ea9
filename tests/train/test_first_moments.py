"""Moments before the first step: steps from them give the bits of a torch optimizer's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import l0func as l0

KINDS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9}),
    ("Adam", {"amsgrad": True, "weight_decay": 0.1}),
    ("AdamW", {}),
    ("NAdam", {}),
    ("RAdam", {}),
    ("RMSprop", {"centered": True, "momentum": 0.5}),
    ("Rprop", {}),
    ("ASGD", {}),
    ("Adagrad", {"initial_accumulator_value": 0.3}),
    ("Adadelta", {}),
    ("Adamax", {}),
]


def leaves() -> dict[str, Tensor]:
    keys = l0.random.split(l0.random.key(0), 3)
    shapes = [(3, 2), (4,), ()]
    return {f"p{i}": l0.random.normal(keys[i], shape) for i, shape in enumerate(shapes)}


def gradients(step: int) -> dict[str, Tensor]:
    return {path: (t - step).sin() for path, t in leaves().items()}


@pytest.mark.parametrize(("kind", "settings"), KINDS, ids=lambda value: str(value))
def test_steps_from_first_moments_have_the_bits_of_torchs_own_loop(kind, settings):
    of_torch = getattr(torch.optim, kind)
    own = l0.optimizer(of_torch, lr=0.1, **settings)
    moved: Any = leaves()
    moments = own.init(moved)
    twins = [torch.nn.Parameter(t.clone()) for t in moved.values()]
    loop = of_torch(twins, lr=0.1, **settings)
    for step in range(4):
        for twin, slope in zip(twins, gradients(step).values(), strict=True):
            twin.grad = slope
        loop.step()
        before = {path: sorted(of_leaf) for path, of_leaf in moments.items()}
        moved, moments = own.update(gradients(step), moments, moved, torch.tensor(step))
        after = {path: sorted(of_leaf) for path, of_leaf in moments.items()}
        # Old versions of Rprop make those of one number in the first step.
        assert all(before[path] in (names, []) for path, names in after.items())
        assert before["p0"] == after["p0"]
    for twin, t in zip(twins, moved.values(), strict=True):
        assert torch.equal(twin, t)


def test_moments_that_no_start_explains_are_made_by_the_first_step():
    # The first buffer is the gradient; dampening would scale it beside a buffer of zeros.
    sgd = l0.optimizer(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.5)
    start: Any = leaves()
    assert sgd.init(start) == {path: {"momentum_buffer": None} for path in start}
    _, moments = sgd.update(gradients(0), sgd.init(start), start, torch.tensor(0))
    assert torch.equal(moments["p0"]["momentum_buffer"], gradients(0)["p0"])


class Lion(torch.optim.Optimizer):
    """A stranger's optimizer, with its moments made inside of its step."""

    def __init__(self, params: Any, lr: float, begin: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "begin": begin})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["count"] = 0
                    state["momentum"] = torch.full_like(p, group["begin"])
                state["count"] += 1
                momentum = state["momentum"].lerp_(p.grad, 0.1)
                p.sub_(momentum.sign(), alpha=group["lr"] / state["count"])


def test_a_strangers_first_moments_are_found_or_left_out_but_never_wrong():
    start: Any = leaves()
    plain = l0.optimizer(Lion, lr=0.1).init(start)
    assert {name: float(t.abs().sum()) for name, t in plain["p0"].items()} == {
        "count": 0.0,
        "momentum": 0.0,
    }
    assert plain["p0"]["momentum"].shape == (3, 2)
    assert l0.optimizer(Lion, lr=0.1, begin=2.0).init(start)["p0"] == dict.fromkeys(plain["p0"])


def test_first_moments_share_no_memory_with_the_leaves_or_each_other():
    start: Any = leaves()
    adam = l0.optimizer(torch.optim.Adam, lr=0.1)
    moments = adam.init(start)
    tensors = [t for of_leaf in moments.values() for t in of_leaf.values()]
    pointers = [t.data_ptr() for t in [*tensors, *start.values()]]
    assert len(set(pointers)) == len(pointers)
    assert all(p.grad is None for p in start.values())
