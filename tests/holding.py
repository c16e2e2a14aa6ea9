"""Modules that hold their own tensors and submodules in unusual places.

Every output is zero if all parameters are, and ``forward`` reads what the place holds.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """A layer, a scale and a buffer; ``step`` is what the place makes."""

    def __init__(self, place: Callable[[Any], None]) -> None:
        super().__init__()
        self.fc, self.other = nn.Linear(3, 3), nn.Linear(3, 3, bias=False)
        self.scale = nn.Parameter(torch.full((3,), 2.0))
        self.register_buffer("shift", torch.ones(3))
        place(self)

    def times(self, x: Tensor, gain: float = 1.0) -> Tensor:
        return gain * self.fc(x) * self.scale

    def forward(self, x: Tensor) -> Tensor:
        return self.step(x)


class Pair(NamedTuple):
    layer: nn.Module
    scale: Tensor


@dataclass
class Record:
    layer: nn.Module
    scale: Tensor
    count: int = 0


BOUND: dict[str, Callable[[Any], None]] = {}
"""Places that a function fills with the call's tensors and modules."""


def bound(place: Callable[[Any], None]) -> Callable[[Any], None]:
    BOUND[place.__name__] = place
    return place


def _run(forward: Any, get: Any, x: Tensor) -> Tensor:
    return forward(get(), x)


def _call(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x)


def _same(x: Tensor) -> Tensor:
    return x


@bound
def method(net: Any) -> None:
    net.step = net.times


@bound
def partial_of_a_method(net: Any) -> None:
    net.step = functools.partial(net.times, gain=2.0)


@bound
def partial_with_a_module(net: Any) -> None:
    net.step = functools.partial(_call, net.fc)


@bound
def partial_with_a_tensor(net: Any) -> None:
    net.step = functools.partial(torch.mul, net.scale)


@bound
def nested_partials(net: Any) -> None:
    net.step = functools.partial(functools.partial(net.times), gain=3.0)


@bound
def partials_in_a_dict(net: Any) -> None:
    net.steps = {"one": [functools.partial(_call, layer=net.other)]}
    net.step = functools.partial(lambda steps, x: steps["one"][0](x=x), net.steps)


@bound
def partial_in_forward(net: Any) -> None:
    net._old_forward = net.times
    new = functools.partial(lambda m, *args: m._old_forward(*args), net)
    net.forward = functools.update_wrapper(new, net.times)


@bound
def partial_with_a_weak_reference(net: Any) -> None:
    net.step = functools.partial(_run, type(net).times, weakref.ref(net))


@bound
def weak_reference_to_a_layer(net: Any) -> None:
    net.layer = weakref.ref(net.fc)
    net.step = types.MethodType(lambda self, x: self.layer()(x), net)


@bound
def weak_reference_to_a_tensor(net: Any) -> None:
    net.factor = weakref.ref(net.scale)
    net.step = types.MethodType(lambda self, x: self.factor() * x, net)


@bound
def weak_method(net: Any) -> None:
    net.weakly = weakref.WeakMethod(net.times)
    net.step = types.MethodType(lambda self, x: self.weakly()(x), net)


@bound
def weak_proxy(net: Any) -> None:
    net.proxy = weakref.proxy(net.fc)
    net.step = types.MethodType(lambda self, x: self.proxy(x), net)


@bound
def weak_values(net: Any) -> None:
    net.layers = weakref.WeakValueDictionary(fc=net.fc)
    net.step = types.MethodType(lambda self, x: self.layers["fc"](x), net)


@bound
def weak_keys(net: Any) -> None:
    net.gains = weakref.WeakKeyDictionary({net.fc: 2.0})
    net.step = types.MethodType(lambda self, x: self.gains[self.fc] * self.fc(x), net)


@bound
def weak_set(net: Any) -> None:
    net.layers = weakref.WeakSet([net.fc])
    net.step = types.MethodType(lambda self, x: next(iter(self.layers))(x), net)


@bound
def named_tuple(net: Any) -> None:
    net.pair = Pair(net.fc, net.scale)
    net.step = types.MethodType(lambda self, x: self.pair.layer(x) * self.pair.scale, net)


@bound
def containers(net: Any) -> None:
    net.held = OrderedDict(a=deque([(net.fc,)], maxlen=4), b=frozenset([net.other]))
    net.step = types.MethodType(
        lambda self, x: self.held["a"][0][0](x) + next(iter(self.held["b"]))(x), net
    )


@bound
def module_as_a_key(net: Any) -> None:
    net.gains = {net.fc: 3.0}
    net.step = types.MethodType(
        lambda self, x: self.gains[self.fc] * next(iter(self.gains))(x), net
    )


@bound
def read_only_mapping(net: Any) -> None:
    net.layers = types.MappingProxyType({"fc": net.fc})
    net.step = types.MethodType(lambda self, x: self.layers["fc"](x), net)


@bound
def namespace(net: Any) -> None:
    net.held = types.SimpleNamespace(layer=net.fc, deeper=types.SimpleNamespace(scale=net.scale))
    net.step = types.MethodType(lambda self, x: self.held.layer(x) * self.held.deeper.scale, net)


@bound
def data_class(net: Any) -> None:
    net.record = Record(net.fc, net.scale)
    net.step = types.MethodType(lambda self, x: self.record.layer(x) * self.record.scale, net)


@bound
def method_of_a_tensor(net: Any) -> None:
    net.step = net.scale.mul


@bound
def python_method_of_a_tensor(net: Any) -> None:
    net.length = net.scale.norm
    net.step = types.MethodType(lambda self, x: x * self.length(), net)


@bound
def operator_of_a_tensor(net: Any) -> None:
    net.step = net.scale.__mul__


@bound
def method_of_a_layer(net: Any) -> None:
    net.step = net.fc.forward


@bound
def compiled_method(net: Any) -> None:
    net.step = torch.compile(net.times, backend="eager")


@bound
def compiled_layer(net: Any) -> None:
    net.quick = torch.compile(net.fc, backend="eager")
    net.step = types.MethodType(lambda self, x: self.quick(x), net)


@bound
def compiled_layer_in_a_list(net: Any) -> None:
    net.quick = [torch.compile(net.fc, backend="eager")]
    net.step = types.MethodType(lambda self, x: self.quick[0](x), net)


@bound
def compiled_in_place(net: Any) -> None:
    net.step = net.times
    net.fc.compile(backend="eager")
    net.compile(backend="eager")


@bound
def hook_that_is_a_method(net: Any) -> None:
    net.step = net.other.__call__
    net.hook = types.MethodType(lambda self, m, args, y: y * self.scale, net)
    net.register_forward_hook(net.hook)


@bound
def hook_that_is_a_partial(net: Any) -> None:
    net.step = _same
    net.register_forward_pre_hook(functools.partial(lambda fc, m, args: (fc(args[0]),), net.fc))


@bound
def hook_with_keywords(net: Any) -> None:
    net.step = _same
    hook = types.MethodType(lambda self, m, args, named: ((self.fc(args[0]),), named), net)
    net.register_forward_pre_hook(hook, with_kwargs=True)
