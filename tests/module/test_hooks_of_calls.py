"""A hook that is registered while an ``L0Module`` is called works as on the module itself."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

import l0func as l0

Register = Callable[[nn.Module, Callable[..., Any]], Any]
KINDS: dict[str, Register] = {
    "forward": lambda module, hook: module.register_forward_hook(hook),
    "with inputs by name": lambda module, hook: module.register_forward_hook(
        hook, with_kwargs=True
    ),
    "always": lambda module, hook: module.register_forward_hook(hook, always_call=True),
    "before": lambda module, hook: module.register_forward_pre_hook(hook),
    "before, by name": lambda module, hook: module.register_forward_pre_hook(
        hook, with_kwargs=True
    ),
    "backward": lambda module, hook: module.register_full_backward_hook(hook),
    "before backward": lambda module, hook: module.register_full_backward_pre_hook(hook),
}


class Outside:
    """What lies outside of the module: handles, and how often hooks ran."""

    def __init__(self) -> None:
        self.asked, self.counted = False, 0
        self.handles: list[Any] = []

    def count(self, *_: Any) -> None:
        """Be a hook."""
        self.counted += 1

    def __deepcopy__(self, memo: Any) -> Outside:
        return self


class Registers(nn.Module):
    """A module that registers a hook on its layer in a call where that is asked for."""

    def __init__(self, register: Register, outside: Outside) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 3)
        self.register, self.outside = register, outside

    def forward(self, x: Tensor) -> Tensor:
        if self.outside.asked:
            self.outside.handles.append(self.register(self.layer, self.outside.count))
        return self.layer(x).tanh()


def _called(net: Any, outside: Outside, asked: bool) -> int:
    """How often the hooks ran in one call and its backward pass."""
    outside.asked, outside.counted = asked, 0
    net(torch.ones(2, 3, requires_grad=True)).sum().backward()
    return outside.counted


# torch runs no backward hooks of modules inside of vmap.
CASES = [(kind, rows) for kind in KINDS for rows in (False, True) if not (rows and "back" in kind)]


@pytest.mark.parametrize(("kind", "per_example"), CASES)
def test_a_hook_runs_in_later_calls_until_its_handle_removes_it(kind, per_example):
    found: list[list[int]] = []
    for wrapped in (False, True):
        outside = Outside()
        net: Any = Registers(KINDS[kind], outside)
        if wrapped:
            net = l0.L0Module(net, 0.0, seed=0, per_example=per_example)
            net.train()
        counts = [_called(net, outside, asked) for asked in (True, False, True, False)]
        outside.handles[0].remove()
        counts.append(_called(net, outside, False))
        outside.handles[1].remove()
        counts += [_called(net, outside, False), _called(net, outside, True)]
        outside.handles[2].remove()
        found.append([*counts, _called(net.module if wrapped else net, outside, False)])
    assert found[0] == found[1] == [1, 1, 2, 2, 1, 0, 1, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_that_every_call_removes_and_registers_do_not_pile_up(kind):
    outside = Outside()
    net = l0.L0Module(Registers(KINDS[kind], outside), 0.0, seed=0)
    for _ in range(5):
        _called(net, outside, True)
        outside.handles.pop().remove()
    held = [vars(net.module.layer)[name] for name in vars(net.module.layer) if "hooks" in name]
    assert max(len(table) for table in held if table is not None) <= 1


def test_a_hook_of_a_mode_around_a_call_ends_with_the_mode():
    net, ran = l0.L0Module(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), 0.0, seed=0), []
    for _ in range(3):
        handles: list[Any] = []

        def add(module: nn.Module, inputs: Any, handles: list[Any] = handles) -> None:
            handles.append(module.register_forward_hook(lambda *_: ran.append(1)))

        outer = register_module_forward_pre_hook(add)
        net(torch.ones(2, 3))
        outer.remove()
        assert len(ran) == len(handles) == 4
        for handle in handles:
            handle.remove()
        ran.clear()
        net(torch.ones(2, 3))
        assert not ran


def test_a_communication_counter_may_be_entered_again():
    debug = pytest.importorskip("torch.distributed.tensor.debug", reason="torch has no counter")
    net = l0.L0Module(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), 0.0, seed=0)
    for _ in range(3):
        with debug.CommDebugMode() as counted:
            net(torch.ones(2, 3, requires_grad=True)).sum().backward()
        assert counted.get_total_counts() == 0


def test_a_copy_keeps_hooks_that_were_there():
    outside = Outside()
    net = l0.L0Module(Registers(KINDS["forward"], outside), 0.0, seed=0)
    _called(net, outside, True)
    assert _called(copy.deepcopy(net), outside, False) == 1
