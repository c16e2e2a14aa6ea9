"""What a function writes on the original module is refused where a call would miss it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import l0func as l0

X = torch.linspace(-1, 1, 24).reshape(4, 6)


class Features(nn.Module):
    """Its head reads what a hook on its trunk has written."""

    def __init__(self, register: Callable[[Features], None]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.head = nn.Linear(6, 5), nn.Linear(5, 2)
        self.kept: dict[str, Any] = {}
        self.items: list[Any] = []
        self.last: Any = None
        self.calls = 0
        self.register_buffer("state", torch.zeros(4, 5))
        register(self)

    def forward(self, x: Tensor) -> Tensor:
        h = self.trunk(x)
        kept = [self.kept.get("h"), *self.items[-1:], self.last]
        found = [value for value in kept if value is not None]
        return self.head(found[0] if found else h)

    def save(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.kept["h"] = 2 * output


def into_a_dict(net: Features) -> None:
    net.trunk.register_forward_hook(lambda m, i, o: net.kept.update(h=2 * o))


def into_a_list(net: Features) -> None:
    net.trunk.register_forward_hook(lambda m, i, o: net.items.append(2 * o))


def into_the_dict_itself(net: Features) -> None:
    kept = net.kept
    net.trunk.register_forward_hook(lambda m, i, o: kept.update(h=2 * o))


def into_an_attribute(net: Features) -> None:
    net.trunk.register_forward_hook(lambda m, i, o: setattr(net, "last", 2 * o))


def into_a_buffer(net: Features) -> None:
    net.trunk.register_forward_hook(lambda m, i, o: setattr(net, "state", o.detach()))


WRITES = [
    *(into_a_dict, into_a_list, into_the_dict_itself, into_an_attribute, into_a_buffer),
]


def by_fn(net: nn.Module) -> Any:
    fn, params, buffers = l0.make_functional(net)
    return fn(params, buffers, X)


def by_buffers(net: nn.Module) -> Any:
    fn, params, buffers = l0.make_functional(net)
    return fn.with_buffers(params, buffers, X)[0]


def by_deepcopy(net: nn.Module) -> Any:
    fn, params, buffers = l0.make_functional(net)
    return copy.deepcopy(fn)(params, buffers, X)


def by_gated(net: nn.Module) -> Any:
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params)
    gates = l0.init_gates(l0.random.key(0), spec)
    return l0.gated(fn, spec)(params, gates, buffers, None, X)


def by_to_module(net: nn.Module) -> Any:
    return l0.to_module(*l0.make_functional(net))(X)


def by_l0_module(net: nn.Module) -> Any:
    return l0.L0Module(net, 1e-3, seed=0)(X)


def by_copy_of_l0_module(net: nn.Module) -> Any:
    return copy.deepcopy(l0.L0Module(net, 1e-3, seed=0))(X)


ROADS = [
    *(by_fn, by_buffers, by_deepcopy, by_gated, by_to_module, by_l0_module, by_copy_of_l0_module),
]


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("register", WRITES)
@pytest.mark.parametrize("ran_before", [False, True])
def test_a_tensor_written_on_the_original_is_refused_by_name(
    road: Any, register: Any, ran_before: bool
):
    net = Features(register)
    if ran_before:
        with torch.no_grad():
            net(X)
    with pytest.raises(ValueError, match=r"wrote a tensor into '\w+' of the Features.*_hooks"):
        road(net)


def test_a_read_that_fails_for_want_of_the_write_is_explained():
    net = Features(into_a_dict)
    net.forward = (lambda self, x: (self.trunk(x), self.kept["h"])[1]).__get__(net)
    with pytest.raises(ValueError, match="wrote a tensor into 'kept'"):
        by_fn(net)


def by_a_method(net: Features) -> None:
    net.trunk.register_forward_hook(net.save)


def into_an_object_outside(net: Features) -> None:
    outside: dict[str, Tensor] = {}
    net.trunk.register_forward_hook(lambda m, i, o: outside.update(h=o))


def a_count(net: Features) -> None:
    net.trunk.register_forward_hook(lambda m, i, o: setattr(net, "calls", net.calls + 1))


def nothing(net: Features) -> None:
    net.trunk.register_forward_hook(lambda m, i, o: print(end="") if net.training else None)


@pytest.mark.parametrize("road", [by_fn, by_buffers, by_deepcopy, by_to_module])
@pytest.mark.parametrize("register", [by_a_method, into_an_object_outside, a_count, nothing])
def test_other_hooks_run_as_in_the_module(road: Any, register: Any):
    net = Features(register)
    torch.testing.assert_close(road(net), net(X))


def test_a_hook_may_write_on_the_module_inside_an_l0_module():
    net = l0.L0Module(Features(nothing), 1e-3, seed=0)
    net.module.trunk.register_forward_hook(lambda m, i, o: net.module.kept.update(g=o))
    for _ in range(2):
        net(X)
    assert net.module.kept["g"].shape == (4, 5)
