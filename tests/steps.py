"""A step of a forward pass on hidden values: in a gated call, in rows, and in plain torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from device import DEVICE
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import l0func as l0

Step = Callable[[Tensor], Tensor]

KEYS = l0.random.split(l0.random.key(1), 3)
SHAPE = (2, 3)


class Around(nn.Module):
    """A step on values between 0 and 1; each is a function of its input and its weight."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(SHAPE, dtype=torch.float64, device=DEVICE))
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return self.step(hidden(x * self.weight))


def hidden(x: Tensor) -> Tensor:
    return x.sigmoid() * 0.8 + 0.1


def inputs() -> Tensor:
    numbers = torch.arange(18, dtype=torch.float64, device=DEVICE)
    return (2 * torch.sin(3 * numbers + 1)).reshape(3, *SHAPE)


def gated(step: Step) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
    """The gated module around a step, and its params, gates and buffers."""
    fn, params, buffers = l0.make_functional(Around(step))
    spec = l0.gate_spec(params, {"weight": l0.element()})
    gates = l0.init_gates(l0.random.key(0), spec, droprate=0.4)
    return l0.gated(fn, spec), (params, gates, buffers)


def in_rows(step: Step, **settings: Any) -> Tensor:
    """A step's outputs, one for each row, in one mapped call."""
    apply, state = gated(lambda h: step(h)[None])
    return l0.per_example(apply, **settings)(*state, KEYS, inputs())


def one_by_one(step: Step, keys: Tensor = KEYS) -> Tensor:
    """A step's outputs, in a gated call for each row."""
    apply, state = gated(step)
    x = inputs()
    return torch.stack([apply(*state, key, x[i : i + 1]) for i, key in enumerate(keys)])


def in_plain_torch(step: Step) -> Tensor:
    """A step's outputs on values that were masked by hand, without any context."""
    _, (params, gates, _) = gated(step)
    spec = l0.gate_spec(params, {"weight": l0.element()})
    x, outputs = inputs(), []
    for i, key in enumerate(KEYS):
        mask = l0.sample_masks(key, gates, spec)["weight"]
        outputs.append(step(hidden(x[i : i + 1] * mask)))
    return torch.stack(outputs)


def check(step: Step, rows: bool = True) -> None:
    """A step gives in gated calls, and in rows, what it gives in plain torch.

    Raises:
        AssertionError: It does not, or the rows are equal or unknown, so that they show nothing.
    """
    expected = in_plain_torch(step)
    roads = [one_by_one, in_rows] if rows else [one_by_one]
    for road in roads:
        close = partial(torch.testing.assert_close, equal_nan=True)
        close(road(step), expected)


class Names(TorchFunctionMode):
    """A context that notes the names of torch functions."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func.__name__)
        return func(*args, **(kwargs or {}))


def hides_indexing() -> bool:
    """Whether this torch shows a context no x[0] and no x[0] = y, as torch 2.1 does."""
    x = torch.ones(2)
    with Names() as names:
        x[0]
    return "__getitem__" not in names.seen


def names_of_calls(function: Any, case: Any) -> list[str]:
    """The names of the torch functions that a case calls, as a context sees them."""
    h = hidden(inputs())[:1]
    target, arguments = case.target(h), case.arguments(h)
    with Names() as names:
        function(target, *arguments)
    return names.seen
