"""Parameters drawn anew from distributions chosen by path."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from l0func import random
from l0func.internal import names, tree
from l0func.internal.context import known_values
from l0func.internal.names import stream
from l0func.internal.tree import Tree

Initialiser: TypeAlias = (
    str | tuple[str, Mapping[str, Any]] | Callable[[Tensor, tuple[int, ...]], Tensor]
)

# What torch.nn.init offers under a name of its own, in the spelling with and without the
# underscore.
NAMES = sorted(name for name in vars(nn.init) if name.endswith("_") and not name.startswith("_"))


def init_params(key: Tensor, params: Tree, rules: Mapping[str, Initialiser | None], /) -> Tree:
    """Parameters drawn anew where a rule says so; the others keep the values that they have.

    Args:
        key: A key, shape ``(2,)``. A parameter's draw depends on the key and its path alone.
        params: Parameters, flat or nested; their shapes, dtypes and devices are kept.
        rules: ``{pattern: initialiser}`` over dotted paths, the first match wins. An initialiser
            is a name of ``torch.nn.init`` (``"kaiming_uniform_"``, with or without the
            underscore), ``(name, {argument: value})``, a callable of ``(key, shape)`` that gives a
            tensor, or None to keep the values.

    Returns:
        A new pytree of the structure of ``params``.

    Raises:
        ValueError: A pattern matches nothing, a name is unknown, a callable gives another shape,
            or this torch's initialisers take no generator (before 2.2).
        TypeError: ``key`` is not a key, or an initialiser is none of these.

    Example:
        >>> params = {"weight": torch.zeros(2, 2), "bias": torch.ones(2)}
        >>> init_params(random.key(0), params, {"weight": "eye_"})["weight"]
        tensor([[1., 0.],
                [0., 1.]])
    """
    random.check_key(key)
    tensors = tree.leaves(params)
    names.check_patterns(rules, tensors, "parameter")
    drawn = dict(tensors)
    for path, old in tensors.items():
        initialiser = next(iter(names.matches(path, rules)), None)
        if initialiser is not None:
            drawn[path] = _redraw(random.fold_in(key, stream(path)), path, old, initialiser)
    return tree.rebuild(params, drawn)


def _redraw(key: Tensor, path: str, old: Tensor, initialiser: Initialiser) -> Tensor:
    if callable(initialiser):
        new = torch.as_tensor(initialiser(key, tuple(old.shape)))
        if new.shape != old.shape:
            raise ValueError(
                f"{path!r} has shape {tuple(old.shape)}; its initialiser gave {tuple(new.shape)}."
            )
        return new.to(old)
    if not isinstance(cast("object", initialiser), str | tuple):
        raise TypeError(
            f"An initialiser is a name, (name, settings), a callable or None; {path!r} has "
            f"{initialiser!r}."
        )
    name, settings = (
        initialiser if isinstance(initialiser, tuple) else (initialiser, dict[str, Any]())
    )
    name = _full(name)
    if name == "sparse_":
        return _sparse(key, tuple(old.shape), **settings).to(old)
    function = getattr(nn.init, name)
    takes_generator = "generator" in inspect.signature(function).parameters
    if not takes_generator and _is_random(name):
        raise ValueError(
            f"torch.nn.init.{name} takes no generator in torch {torch.__version__}, and would "
            f"draw from the global one. "
            "Use torch 2.2 or later, or a callable of (key, shape) such as l0func.random.normal."
        )
    generator = {"generator": _generator(key, old.device)} if takes_generator else {}
    with torch.no_grad():
        return function(torch.empty_like(old, requires_grad=False), **settings, **generator)


def _full(name: str) -> str:
    full = name if name.endswith("_") else f"{name}_"
    if full not in NAMES:
        raise ValueError(f"torch.nn.init has no {name!r}{names.closest(full, NAMES)}.")
    return full


def _sparse(key: Tensor, shape: tuple[int, ...], sparsity: float, std: float = 0.01) -> Tensor:
    # torch.nn.init.sparse_ takes a generator and shuffles by the global one all the same.
    if len(shape) != 2:
        raise ValueError(f"sparse_ fills matrices; got shape {shape}.")
    order, values = random.split(key, 2)
    rank = random.uniform(order, shape).argsort(dim=0).argsort(dim=0)
    return torch.where(
        rank < math.ceil(sparsity * shape[0]), 0.0, std * random.normal(values, shape)
    )


def _is_random(name: str) -> bool:
    return name.rstrip("_") not in ("constant", "ones", "zeros", "eye", "dirac")


def _generator(key: Tensor, device: torch.device) -> torch.Generator:
    words = known_values(key)
    if words is None:
        raise ValueError(
            "torch.nn.init draws one parameter at a time: init_params cannot be mapped or "
            "compiled."
        )
    seed = (words[0] ^ (words[1] * 0x9E3779B97F4A7C15)) & ((1 << 64) - 1)
    return torch.Generator(device).manual_seed(seed - (1 << 64) if seed >= 1 << 63 else seed)
