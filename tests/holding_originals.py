"""Modules that hold their own tensors where a function cannot bind them."""

from __future__ import annotations

import types
from collections import UserDict, defaultdict
from collections.abc import Callable
from typing import Any

import torch
from holding import Net
from torch import Tensor, nn

REFUSED: dict[str, tuple[str, str, Callable[[Any], None]]] = {}
"""Places that it cannot fill: the tensor that is read, the way to it, and the module's place."""


class Kernel:
    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.weight


class Slotted:
    __slots__ = ("weight",)

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.weight


class Runner:
    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def run(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Unregistered(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def refused(tensor: str, way: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    def enter(place: Callable[[Any], None]) -> Callable[[Any], None]:
        REFUSED[place.__name__] = (tensor, way, place)
        return place

    return enter


@refused("fc.weight", "its default factory, the object of a bound method")
def default_dict_of_a_method(net: Any) -> None:
    net.layers = defaultdict(net.children)
    net.step = types.MethodType(lambda self, x: next(iter(self.layers["new"]))(x), net)


@refused("scale", "attribute 'step' of the module, through its variable 'net'")
def closure_over_the_module(net: Any) -> None:
    net.step = lambda x: x * net.scale


@refused("fc.weight", "attribute 'step' of the module, through its variable 'fc'")
def closure_over_a_layer(net: Any) -> None:
    fc = net.fc
    net.step = lambda x: fc(x)


@refused("scale", "attribute 'step' of the module, through its variable 'scale'")
def closure_over_a_tensor(net: Any) -> None:
    scale = net.scale
    net.step = lambda x: x * scale


@refused("fc.weight", "through its variable 'layers', item 0")
def closure_over_a_list(net: Any) -> None:
    layers = [net.fc]
    net.step = lambda x: layers[0](x)


@refused("scale", "a default value")
def default_value(net: Any) -> None:
    net.step = lambda x, scale=net.scale: x * scale


@refused("shift", "attribute 'step' of the module")
def closure_over_a_buffer(net: Any) -> None:
    net.step = lambda x: net.fc(x * 0) + net.shift if net.shift.sum() else x


@refused("scale", "attribute 'step' of the module, through attribute 'weight'")
def helper_object(net: Any) -> None:
    net.step = Kernel(net.scale)


@refused("scale", "attribute 'step' of the module, through attribute 'weight'")
def object_with_slots(net: Any) -> None:
    net.step = Slotted(net.scale)


@refused("fc.weight", "the object of a bound method, attribute 'layer'")
def method_of_a_helper(net: Any) -> None:
    net.step = Runner(net.fc).run


@refused("fc.weight", "attribute 'tools' of the module, through item 0")
def unregistered_module_around_a_layer(net: Any) -> None:
    net.tools = [Unregistered(net.fc)]
    net.step = types.MethodType(lambda self, x: self.tools[0](x), net)


@refused("scale", "attribute 'held' of the module")
def user_dict(net: Any) -> None:
    net.held = UserDict(scale=net.scale)
    net.step = types.MethodType(lambda self, x: x * self.held["scale"], net)


@refused("fc.weight", "attribute 'forward' of the module")
def forward_in_a_closure(net: Any) -> None:
    old = net.times

    def forward(x: Tensor) -> Tensor:
        return old(x)

    net.forward = forward


@refused("fc.weight", "attribute 'step' of the module")
def method_under_a_decorator(net: Any) -> None:
    net.step = torch.no_grad()(net.times)


@refused("scale", "a hook in '_forward_hooks' of module 'fc'")
def hook_over_a_sibling(net: Any) -> None:
    net.step = net.fc.forward
    net.step = types.MethodType(lambda self, x: self.fc(x), net)
    net.fc.register_forward_hook(lambda m, args, y: y * net.scale)


@refused("other.weight", "a hook in '_forward_pre_hooks' of module 'fc'")
def pre_hook_over_a_sibling(net: Any) -> None:
    net.step = types.MethodType(lambda self, x: self.fc(x), net)
    net.fc.register_forward_pre_hook(lambda m, args: (net.other(args[0]),))


@refused("scale", "'forward' of class Closed")
def class_over_a_module(net: Any) -> None:
    class Closed(Net):
        def forward(self, x: Tensor) -> Tensor:
            return x * net.scale

    net.__class__ = Closed


@refused("scale", "attribute 'turned' of the module")
def earlier_view(net: Any) -> None:
    net.turned = net.scale.view(1, 3)
    net.step = types.MethodType(lambda self, x: x * self.turned, net)


@refused("fc.weight", "attribute 'data' of the module")
def earlier_data(net: Any) -> None:
    net.data = net.fc.weight.data
    net.step = types.MethodType(lambda self, x: x @ self.data.T, net)


@refused("fc.weight", "attribute 'step' of the module, through its variable 'turned'")
def earlier_view_in_a_closure(net: Any) -> None:
    turned = net.fc.weight.t()
    net.step = lambda x: x @ turned


@refused("scale", "attribute 'step' of the module")
def property_of_a_tensor(net: Any) -> None:
    net.step = lambda x: x * net.scale.data


@refused("scale", "attribute 'step' of the module")
def write_in_place(net: Any) -> None:
    def step(x: Tensor) -> Tensor:
        with torch.no_grad():
            net.scale.add_(1.0)
        return x * 0

    net.step = step


@refused("scale", "attribute 'step' of the module")
def tensors_in_a_list(net: Any) -> None:
    net.step = lambda x: torch.stack([net.scale, net.scale]).sum() * x


@refused("scale", "attribute 'step' of the module")
def tensor_by_keyword(net: Any) -> None:
    net.step = lambda x: torch.mul(x, other=net.scale)


@refused("scale", "attribute 'step' of the module")
def custom_function(net: Any) -> None:
    net.step = lambda x: _Product.apply(x, net.scale)


@refused("scale", "attribute 'step' of the module")
def number_of_a_tensor(net: Any) -> None:
    net.step = lambda x: x * net.scale[0].item()


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        return grads[0] * b, grads[0] * a
