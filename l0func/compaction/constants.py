"""Layers that read nothing any more become constants: their biases are all that they add."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from l0func.compaction.resize import CONVOLUTIONS
from l0func.pure.functional import Functional
from l0func.pure.part import Part
from l0func.pure.places import Contents
from l0func.smaller import Constant


def with_constants(function: Functional, paths: Collection[str]) -> Functional:
    """The function with constants in place of linear layers and convolutions with zero weights.

    Args:
        function: A function and its tensors.
        paths: The weights that may go. One that is not zero, or that several modules use, stays;
            so does one in a module that does not multiply it as a layer of torch does.
    """
    fn, params, buffers = function
    uses: Counter[str] = Counter()
    for _, part in fn.parts():
        uses.update(part.paths().values())
    params, parts = dict(params), dict[str, Part]()
    for path, part in fn.parts():
        weight = part.paths().get("weight", "")
        if weight not in paths or uses[weight] > 1 or bool(params[weight].any()):
            continue
        constant = constant_part(part, params)
        if constant is not None:
            parts[path] = constant
            params[weight] = _without_inputs(params[weight], part, params)
    shapes = {path: tuple(p.shape) for path, p in params.items()}
    parts |= _slow_layers(dict(fn.parts()), parts)
    return Functional(fn.resized(shapes, parts), params, buffers)


def constants_in(
    parts: Mapping[str, Part], own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> dict[str, Part]:
    """The layers that are constants in a smaller state, and the layers around them.

    Args:
        parts: The submodules, by their paths.
        own: The module's tensors.
        tensors: The state's tensors; the weight of a constant has no entries.
    """
    found: dict[str, Part] = {}
    for path, part in parts.items():
        weight = part.paths().get("weight", "")
        if weight in tensors and not tensors[weight].numel() and own[weight].numel():
            constant = constant_part(part, own)
            if constant is not None:
                found[path] = constant
    return found | _slow_layers(parts, found)


def _slow_layers(parts: Mapping[str, Part], constants: Mapping[str, Part]) -> dict[str, Part]:
    """Torch's encoder layers around constants, without the road on which they read weights."""
    found: dict[str, Part] = {}
    for path in constants:
        parent = path.rpartition(".")[0]
        if issubclass(parts[parent].kind, nn.TransformerEncoderLayer):
            found[parent] = parts[parent].with_attribute("activation_relu_or_gelu", 0)
    return found


def constant_part(part: Part, tensors: Mapping[str, Tensor]) -> Part | None:
    """A layer without its inputs; None if it is no linear layer or convolution.

    Args:
        part: A module.
        tensors: All parameters of the tree.
    """
    if not part.paths().keys() <= {"weight", "bias"} or part.children:
        return None
    if part.attribute("forward") is not None:
        # A forward on the object itself would run in place of the constant's.
        return None
    geometry: dict[str, Any] = {"stride": (), "dilation": (), "padded": ()}
    if part.kind in CONVOLUTIONS:
        geometry = {name: part.plain[name] for name in ("stride", "dilation")}
        geometry["padded"] = _padded(part)
    elif read_dim(part, tensors) is None:
        return None
    return replace(part, kind=Constant, plain=part.plain | geometry)


def _padded(part: Part) -> tuple[int, ...]:
    """The zeros that a convolution adds to both ends of each dimension together."""
    plain = part.plain
    if plain["padding"] == "valid":
        return (0,) * len(plain["kernel_size"])
    if plain["padding"] == "same":
        sizes = zip(plain["dilation"], plain["kernel_size"], strict=True)
        return tuple(dilation * (kernel - 1) for dilation, kernel in sizes)
    return tuple(2 * size for size in plain["padding"])


def _without_inputs(weight: Tensor, part: Part, tensors: Mapping[str, Tensor]) -> Tensor:
    dim = 1 if part.kind in CONVOLUTIONS else read_dim(part, tensors) or 0
    return weight.narrow(dim, 0, 0).clone()


def read_dim(part: Part, tensors: Mapping[str, Tensor]) -> int | None:
    """The dimension along which a linear layer's weight reads; None if it is no linear layer.

    A class that is not torch's is tried on small tensors.
    """
    if part.kind.forward is nn.Linear.forward:
        return 1
    paths = part.paths()
    shape = tuple(tensors[paths["weight"]].shape) if "weight" in paths else ()
    if len(shape) != 2:
        return None
    return next((dim for dim in (1, 0) if _reads_along(part, dim, shape)), None)


def _reads_along(part: Part, dim: int, shape: tuple[int, ...]) -> bool:
    """Whether a module multiplies its input's last dimension with one dimension of its weight."""
    own: dict[str, Tensor] = {}
    sizes = {"weight": shape, "bias": (shape[1 - dim],)}
    for name, path in part.paths().items():
        count = torch.Size(sizes[name]).numel()
        own[path] = torch.linspace(-1, 1, count, device="cpu").reshape(sizes[name])
    x = torch.linspace(-1, 2, 2 * shape[dim], device="cpu").reshape(1, 2, shape[dim])
    module = part.new()
    part.fill(module, Contents(own, []))
    try:
        output = module(x)
    except Exception:
        # A forward of unknown code may raise anything on tensors that it does not expect.
        return False
    named = {name: own[path] for name, path in part.paths().items()}
    matrix = named["weight"] if dim == 1 else named["weight"].T
    expected = nn.functional.linear(x, matrix, named.get("bias"))
    return isinstance(output, Tensor) and _is_close(output, expected)


def _is_close(output: Tensor, expected: Tensor) -> bool:
    return output.shape == expected.shape and torch.allclose(output, expected, atol=1e-5)
