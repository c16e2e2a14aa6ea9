"""Flat views of parameter pytrees: dotted paths, patterns over them, and the way back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, cast

import optree
import torch
from torch import Tensor

Tree = Any
"""A flat ``{path: Tensor}``, or any pytree of tensors; the paths of a nested one are dotted."""

LEAVES = (Tensor, type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)


def leaves(tree: Tree, /, what: str = "params") -> dict[str, Tensor]:
    """The tensors of a pytree under their dotted paths.

    Args:
        tree: A flat dict of tensors, or nested dicts, lists and tuples of them. A leaf that is
            None is not there.
        what: What to call the tree in an error.

    Returns:
        A new dict, in the order of the tree.

    Raises:
        TypeError: A leaf is not a tensor.
        ValueError: Two leaves have the same dotted path.
    """
    named: dict[str, Tensor] = {}
    for path, leaf in walk(tree):
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"The leaves of {what} are tensors; {path!r} is {type(leaf).__name__}."
            )
        if path in named:
            raise ValueError(f"Two leaves of {what} have the same dotted path, {path!r}.")
        named[path] = leaf
    return named


def rebuild(tree: Tree, named: Mapping[str, Tensor], /) -> Tree:
    """A pytree of the structure of ``tree`` with the tensors of ``named`` under its paths."""
    return _mapped("", tree, lambda path, leaf: named[path])


class _Level(NamedTuple):
    """One level of a pytree: names and values of its children, and the way back."""

    names: list[str]
    children: list[Any]
    unflatten: Callable[[list[Any]], Any]


def level_of(value: Any) -> _Level | None:
    """The children of a container, or None for a leaf."""
    # Builtin containers by hand: torch.compile does not follow optree through a dict.
    if isinstance(value, LEAVES):
        return None
    container = value
    kind = cast("Any", type(container))
    if kind in (dict, OrderedDict):
        return _Level(
            [str(key) for key in container],
            list(container.values()),
            partial(_to_dict, kind, list(container)),
        )
    if _is_namedtuple(container):
        return _Level(list(kind._fields), list(container), kind._make)
    if kind in (list, tuple):
        return _Level([str(i) for i in range(len(container))], list(container), kind)
    if optree.tree_is_leaf(container, none_is_leaf=True):
        return None
    custom: Any = optree.tree_flatten_one_level(container, none_is_leaf=True)
    names = [str(entry) for entry in custom.entries]
    return _Level(names, list(custom.children), partial(custom.unflatten_func, custom.metadata))


def map_tensors(function: Callable[[Tensor], Tensor], value: Any, /) -> Any:
    """A pytree with every tensor of it changed; other leaves stay."""
    return _mapped(
        "", value, lambda path, leaf: function(leaf) if isinstance(leaf, Tensor) else leaf
    )


def _is_namedtuple(value: Any) -> bool:
    return hasattr(value, "_fields") and isinstance(value, tuple)


def _to_dict(kind: Any, keys: list[Any], values: list[Any]) -> Any:
    return kind(zip(keys, values, strict=True))


def walk(value: Any, /, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted paths and leaves of a pytree; a leaf that is None is not there."""
    level = level_of(value)
    if level is None:
        if value is not None:
            yield path, value
        return
    for name, child in zip(level.names, level.children, strict=True):
        yield from walk(child, f"{path}.{name}" if path else name)


def _mapped(path: str, value: Any, function: Callable[[str, Any], Any]) -> Any:
    level = level_of(value)
    if level is None:
        return None if value is None else function(path, value)
    pairs = zip(level.names, level.children, strict=True)
    return level.unflatten(
        [_mapped(f"{path}.{name}" if path else name, child, function) for name, child in pairs]
    )
