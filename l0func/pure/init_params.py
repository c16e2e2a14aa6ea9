"""New initial values for parameters, by torch's initialisers or by the user's own."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from l0func import random
from l0func.internal import names, tree
from l0func.internal.context import known_values
from l0func.internal.names import stream
from l0func.internal.tree import TreeT
from l0func.internal.whole import check_whole

Initialiser: TypeAlias = (
    str | tuple[str, Mapping[str, Any]] | Callable[[Tensor, tuple[int, ...]], Tensor]
)
"""A name in ``torch.nn.init``, such a name with settings, or a callable of (key, shape)."""

_IN_PLACE = [name for name in vars(nn.init) if name.endswith("_")]
TORCH_INITIALISERS = sorted(name for name in _IN_PLACE if not name.startswith("_"))
"""The initialisers in ``torch.nn.init``, spelled with the underscore."""


def init_params(
    key: Tensor, params: TreeT, initialisers: Mapping[str, Initialiser | None], /
) -> TreeT:
    """Parameters drawn anew where a pattern says so; the others keep their values.

    Args:
        key: A key, shape ``(2,)``. A parameter's draw depends on the key and its path alone.
        params: Parameters, flat or nested; their shapes, dtypes and devices are kept.
        initialisers: ``{pattern: initialiser}`` over dotted paths; the first match wins. An
            initialiser is a name in ``torch.nn.init`` (``"kaiming_uniform_"``, with or without
            the underscore), ``(name, {argument: value})``, a callable of ``(key, shape)`` that
            gives a tensor, or None to keep the values.

    Returns:
        A new pytree, structured as ``params``.

    Raises:
        ValueError: A pattern matches nothing, a name is unknown, a callable gives another shape,
            an initialiser meets a shape that it cannot fill, as ``kaiming_normal_`` a norm's
            vector, a name is used inside vmap or a compiler, or this torch's initialisers take no
            generator (before 2.2).
        TypeError: ``key`` is not a key, or an initialiser has another type or other settings.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> params = {"weight": torch.zeros(2, 2), "bias": torch.ones(2)}
        >>> l0.init_params(l0.random.key(0), params, {"weight": "eye_"})["weight"]
        tensor([[1., 0.],
                [0., 1.]])
    """
    check_whole("init_params", params=params)
    random.check_key(key)
    tensors = tree.leaves(params)
    names.check_patterns(initialisers, tensors, "parameter")
    redrawn = dict(tensors)
    chosen = names.first_matches(tensors, initialisers)
    for path, old in tensors.items():
        initialiser = chosen.get(path)
        if initialiser is not None:
            own_key = random.fold_in(key, stream(path))
            redrawn[path] = _redrawn(own_key, path, old, initialiser)
    return tree.rebuild(params, redrawn)


def _redrawn(key: Tensor, path: str, old: Tensor, initialiser: Initialiser) -> Tensor:
    given: object = initialiser
    if getattr(initialiser, "__module__", None) == nn.init.__name__:
        name: str = getattr(initialiser, "__name__", "normal_")
        raise TypeError(
            f"An initialiser from torch.nn.init goes by its name, so that it draws from the key: "
            f"{path!r} has the function {name}; write {name!r}, or ({name!r}, settings)."
        )
    if callable(initialiser):
        return _by_callable(key, path, old, initialiser)
    if isinstance(initialiser, tuple):
        name, settings = initialiser
        return _by_name(key, path, old, name, settings)
    if isinstance(given, str):
        return _by_name(key, path, old, given, {})
    raise TypeError(
        f"An initialiser is a name, (name, settings), a callable or None; {path!r} has {given!r}."
    )


def _by_callable(
    key: Tensor, path: str, old: Tensor, draw: Callable[[Tensor, tuple[int, ...]], Tensor]
) -> Tensor:
    new = torch.as_tensor(draw(key, tuple(old.shape)))
    if new.shape != old.shape:
        raise ValueError(
            f"{path!r} has shape {tuple(old.shape)}; its initialiser gave {tuple(new.shape)}."
        )
    return new.to(old)


def _by_name(
    key: Tensor, path: str, old: Tensor, name: str, settings: Mapping[str, Any]
) -> Tensor:
    name = _with_underscore(name)
    if name == "sparse_":
        with _naming(path, old, name):
            return _sparse(key, tuple(old.shape), **settings).to(old)
    function = getattr(nn.init, name)
    takes_generator = "generator" in inspect.signature(function).parameters
    if not takes_generator and _is_random(name):
        raise ValueError(
            f"torch.nn.init.{name} takes no generator in torch {torch.__version__}, and would "
            "draw from the global one. Use torch 2.2 or later, or a callable of (key, shape) such "
            "as l0func.random.normal."
        )
    generator = {"generator": _generator(key, old.device)} if takes_generator else {}
    new = torch.empty_like(old, requires_grad=False)
    with torch.no_grad(), _naming(path, old, name):
        return function(new, **settings, **generator)


@contextmanager
def _naming(path: str, old: Tensor, name: str) -> Generator[None, None, None]:
    """A context for an initialiser: its error names the parameter, and what to write instead."""
    try:
        yield
    except TypeError as error:
        raise TypeError(
            f"{name} cannot draw {path!r} with the settings given: {error}. Settings are the "
            f"arguments of torch.nn.init.{name}, as in ({name!r}, {{argument: value}})."
        ) from None
    except (ValueError, RuntimeError) as error:
        owner = path.rpartition(".")[0]
        pattern = f"{owner}.*" if owner else path
        raise ValueError(
            f"{name} cannot draw {path!r} of shape {tuple(old.shape)}: "
            f"{str(error).rstrip('.')}. The first pattern that matches decides: before the one "
            f"that chose {name}, put {pattern!r}: None to keep these values, or {pattern!r} with "
            "another initialiser."
        ) from None


def _with_underscore(name: str) -> str:
    full = name if name.endswith("_") else f"{name}_"
    if full not in TORCH_INITIALISERS:
        closest = names.closest(full, TORCH_INITIALISERS)
        raise ValueError(f"torch.nn.init has no {name!r}{closest}.")
    return full


def _sparse(key: Tensor, shape: tuple[int, ...], sparsity: float, std: float = 0.01) -> Tensor:
    # torch.nn.init.sparse_ takes a generator, yet shuffles by the global one.
    if len(shape) != 2:
        raise ValueError(f"sparse_ fills matrices; got shape {shape}.")
    order, values = random.split(key, 2)
    rank = random.uniform(order, shape).argsort(dim=0).argsort(dim=0)
    is_zero = rank < math.ceil(sparsity * shape[0])
    return torch.where(is_zero, 0.0, std * random.normal(values, shape))


def _is_random(name: str) -> bool:
    return name.rstrip("_") not in ("constant", "ones", "zeros", "eye", "dirac")


def _generator(key: Tensor, device: torch.device) -> torch.Generator:
    """A torch generator with a seed from the key."""
    words = known_values(key)
    if words is None:
        raise ValueError(
            "torch.nn.init draws one parameter at a time: init_params cannot be mapped or "
            "compiled."
        )
    mixed = words[0] ^ (words[1] * 0x9E3779B97F4A7C15)
    seed = mixed & ((1 << 64) - 1)
    if seed >= 1 << 63:
        # torch takes a signed number.
        seed -= 1 << 64
    return torch.Generator(device).manual_seed(seed)
