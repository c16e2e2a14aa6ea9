"""One forward taken apart: the time and the shapes of every layer's torch functions.

A function belongs to the layer of the last parameter that it or a function before it has read:
activations and products between activations belong to the layer before them. A layer's name is
its parameters' path without their last word, weight or bias.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from l0func.internal.outputs import visible_tensors
from l0func.timing.clocks import Clock

OnFunction = Callable[[str, Any, Any], None]
"""``visit(layer, inputs, output)`` after each torch function."""


def layer_of(path: str) -> str:
    """The name of the layer with a parameter: its path, without a last word weight or bias."""
    for word in ("weight", "bias"):
        if path.endswith(word):
            return path.removesuffix(word).rstrip("._")
    return path


class ByLayer(TorchFunctionMode):
    """A context that calls ``visit`` after every torch function.

    Args:
        module: The module whose parameters name the layers.
        visit: What to do after a function.
    """

    def __init__(self, module: nn.Module, visit: OnFunction) -> None:
        super().__init__()
        self._layers = {id(p): layer_of(path) for path, p in module.named_parameters()}
        self._visit, self._layer = visit, ""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        # Reading a shape is no work, and its mark would take longer.
        if getattr(func, "__name__", "") != "__get__":
            self._layer = self._layer_of(args, kwargs) or self._layer
            self._visit(self._layer, (args, kwargs), output)
        return output

    def _layer_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> str:
        for value in (*args, *(kwargs or {}).values()):
            # Recurrent layers get their weights in a list.
            items = cast("Sequence[Any]", value) if isinstance(value, list | tuple) else (value,)
            for item in items:
                if isinstance(item, Tensor) and id(item) in self._layers:
                    return self._layers[id(item)]
        return ""


def layer_times(module: nn.Module, call: Callable[[], Any], clock: Clock) -> dict[str, float]:
    """Milliseconds of each layer in one call.

    Args:
        module: The module.
        call: Calls it.
        clock: The clock.

    Returns:
        ``{layer: milliseconds}``, together the whole call; ``""`` has what is before the first
        parameter.
    """
    layers: list[str] = []
    marks: list[Any] = []

    def visit(layer: str, inputs: Any, output: Any) -> None:
        layers.append(layer)
        marks.append(clock.mark())

    clock.wait()
    with ByLayer(module, visit):
        start = clock.mark()
        call()
        end = clock.mark()
    layers.append(layers[-1] if layers else "")
    times: dict[str, float] = {}
    for layer, ms in zip(layers, clock.spans([start, *marks, end]), strict=True):
        times[layer] = times.get(layer, 0.0) + ms
    return times


def layer_shapes(module: nn.Module, call: Callable[[], Any]) -> dict[str, list[torch.Size]]:
    """For each layer the shapes of the tensors that its functions take and return, in order."""
    shapes: dict[str, list[torch.Size]] = {}

    def visit(layer: str, inputs: Any, output: Any) -> None:
        tensors = visible_tensors((inputs, output))
        shapes.setdefault(layer, []).extend(tensor.shape for tensor in tensors)

    with ByLayer(module, visit):
        call()
    return shapes
