"""Pytrees of tensors: flattened to ``{dotted path: tensor}``, and rebuilt from that."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import optree
import torch
from torch import Tensor

from l0func.internal.context import FOLLOWS_OPTREE, compiling
from l0func.internal.names import ORDER
from l0func.internal.untyped import untyped

Tree: TypeAlias = Tensor | Mapping[str, "Tree"] | Sequence["Tree"] | None
"""A flat ``{path: Tensor}``, or another pytree with tensors as leaves; nested paths are dotted.

It is made of dicts, lists, tuples and named tuples; a None counts as absent. A function that
returns a tree in the structure of another one has the same type for both; the new leaves are plain
tensors, also where the old ones are an ``nn.Parameter``.
"""

TreeT = TypeVar("TreeT", bound=Tree)
"""A tree whose structure, and so whose type, the result has."""

Pytree: TypeAlias = Any
"""A tree whose leaves are walked: within the package the structure of a tree is not known."""

Values = TypeVar("Values")
"""Any pytree, whatever its leaves are."""

LEAVES = (
    Tensor, type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device,
    torch.Size,
)  # fmt: skip
"""The types that are leaves: tensors and constants."""


_SOURCES = {
    "params": f" Take them from fn, params, buffers = l0func.make_functional(module). {ORDER}",
    "buffers": f" Take them from l0func.make_functional; a module without any has {{}}. {ORDER}",
    "gates": f" Take them from l0func.init_gates(key, spec). {ORDER}",
}


def leaves(tree: Pytree, /, label: str = "params") -> dict[str, Tensor]:
    """A pytree's tensors under their dotted paths.

    Args:
        tree: A flat dict of tensors, or nested dicts, lists and tuples. A None counts
            as absent.
        label: A name for the tree in an error.

    Returns:
        A new dict, in the tree's order.

    Raises:
        TypeError: ``tree`` is no container, or a leaf is not a tensor.
        ValueError: Two leaves have the same dotted path.
    """
    flat = _flat(tree)
    if flat is not None:
        return flat
    _check_container(tree, label)
    named: dict[str, Tensor] = {}
    for path, leaf in walk(tree):
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"The leaves of {label} are tensors; {path!r} is {type(leaf).__name__}."
                f"{_SOURCES.get(label, '')}"
            )
        if path in named:
            raise ValueError(f"Two leaves of {label} have the same dotted path, {path!r}.")
        named[path] = leaf
    return named


def _flat(tree: Any) -> dict[str, Tensor] | None:
    """A copy of a flat dict of tensors, as almost every call has it; None for other trees."""
    if type(tree) is not dict:
        return None
    named = cast("dict[Any, Any]", tree)
    for path, leaf in named.items():
        if type(path) is not str or not isinstance(leaf, Tensor):
            return None
    return dict(named)


def _check_container(tree: Any, label: str) -> None:
    if tree is None or level_of(tree) is not None:
        return
    if isinstance(tree, Tensor):
        got = f"a tensor of shape {tuple(tree.shape)}"
    else:
        got = f"an object of type {type(tree).__name__}"
    raise TypeError(
        f"{label}: expected a dict {{path: tensor}}, or another pytree of tensors; got {got}."
        f"{_SOURCES.get(label, '')}"
    )


def rebuild(tree: Values, named: Mapping[str, Tensor], /) -> Values:
    """The pytree ``tree`` with ``named[path]`` in place of the leaf at each path."""
    return _mapped("", tree, lambda path, leaf: named[path])


class Level(NamedTuple):
    """One level in a pytree: its children, their names, and a function that rebuilds it."""

    names: list[str]
    children: list[Any]
    unflatten: Callable[[list[Any]], Any]


def level_of(value: Any) -> Level | None:
    """A container's children, or None for a leaf."""
    # Builtin containers by hand: torch.compile does not follow optree through a dict.
    if isinstance(value, LEAVES):
        return None
    container = value
    kind = cast("Any", type(container))
    if kind in (dict, OrderedDict):
        names = [str(key) for key in container]
        unflatten = partial(_to_dict, kind, list(container))
        return Level(names, list(container.values()), unflatten)
    if _is_namedtuple(container):
        return Level(list(kind._fields), list(container), partial(_to_namedtuple, kind))
    if kind in (list, tuple):
        names = [str(i) for i in range(len(container))]
        return Level(names, list(container), kind)
    if compiling() and not FOLLOWS_OPTREE:
        return _torch_level(container, kind)
    namespace = ""
    if optree.tree_is_leaf(container, none_is_leaf=True):
        if compiling():
            return _torch_level(container, kind)
        namespace = _namespace(kind)
        if not namespace:
            return _torch_level(container, kind)
    flatten: Any = optree.tree_flatten_one_level
    custom = flatten(container, none_is_leaf=True, namespace=namespace)
    children = list(custom.children)
    numbered = list(custom.entries) == list(range(len(children)))
    # A class that torch registered with optree has numbers for its entries.
    names = _names(container, children) if numbered else list(map(str, custom.entries))
    unflatten = partial(custom.unflatten_func, custom.metadata)
    return Level(names, children, unflatten)


def _namespace(kind: Any) -> str:
    """The first namespace in which optree knows a class; empty if it knows it in none."""
    registry = cast("Any", optree).registry
    for key in registry._NODETYPE_REGISTRY:
        if isinstance(key, tuple) and key[1] is kind:
            return cast("str", key[0])
    return ""


def _torch_level(container: Any, kind: Any) -> Level | None:
    """A container's children if its class is in torch's own registry of pytrees, else None."""
    node = untyped.utils._pytree.SUPPORTED_NODES.get(kind)
    if node is None:
        return None
    flattened, context = node.flatten_fn(container)
    children = list(flattened)
    return Level(_names(container, children), children, partial(_to_node, node, context))


def _names(container: Any, children: list[Any]) -> list[str]:
    """A mapping's keys, if the children are its values in order; otherwise numbers."""
    if isinstance(container, Mapping):
        mapping = cast("Mapping[Any, Any]", container)
        values = list(mapping.values())
        if len(values) == len(children) and all(map(operator.is_, values, children)):
            return [str(key) for key in mapping]
    return [str(i) for i in range(len(children))]


def _to_node(node: Any, context: Any, children: list[Any]) -> Any:
    return node.unflatten_fn(children, context)


def map_tensors(function: Callable[[Tensor], Tensor], value: Values, /) -> Values:
    """The pytree ``value`` with ``function(tensor)`` for each tensor; other leaves stay."""

    def change(path: str, leaf: Any) -> Any:
        return function(leaf) if isinstance(leaf, Tensor) else leaf

    return _mapped("", value, change)


def _is_namedtuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(cast("Any", value), "_fields")


def _to_namedtuple(kind: Any, values: list[Any]) -> Any:
    # The compiler of torch 2.9 cannot return what _make builds.
    return kind(*values) if compiling() and not FOLLOWS_OPTREE else kind._make(values)


def _to_dict(kind: Any, keys: list[Any], values: list[Any]) -> Any:
    return kind(zip(keys, values, strict=True))


def walk(value: Any, /, path: str = "") -> Iterator[tuple[str, Any]]:
    """All dotted paths and leaves in a pytree; a None counts as absent."""
    level = level_of(value)
    if level is None:
        if value is not None:
            yield path, value
        return
    for name, child in zip(level.names, level.children, strict=True):
        yield from walk(child, _child_path(path, name))


def _mapped(path: str, value: Any, function: Callable[[str, Any], Any]) -> Any:
    level = level_of(value)
    if level is None:
        return None if value is None else function(path, value)
    pairs = zip(level.names, level.children, strict=True)
    children = [_mapped(_child_path(path, name), child, function) for name, child in pairs]
    return level.unflatten(children)


def _child_path(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
