"""Objects taken apart into their items and attributes, and built again with other ones.

Modules return dataclasses, Hugging Face's ``ModelOutput``, caches and other objects. This file
adds them to the containers that :mod:`l0func.internal.tree` knows.
"""

from __future__ import annotations

import types
from collections import OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any, NamedTuple, cast

from torch import nn

from l0func.internal import tree
from l0func.internal.attributes import attributes_of, own_dict, slots_of
from l0func.internal.context import compiling
from l0func.internal.hidden import find_tensor, is_tensor
from l0func.internal.tree import LEAVES, Level

_MAPPING_BASES: tuple[Any, ...] = (OrderedDict, defaultdict, dict)
_SEQUENCES: tuple[Any, ...] = (list, deque, tuple)
_BASES: tuple[Any, ...] = (*_MAPPING_BASES, *_SEQUENCES, types.SimpleNamespace, object)
"""Classes that a Python class may extend: its objects then consist of items and attributes."""

_TUPLE: Any = tuple

_WHOLE = (type, types.ModuleType, nn.Module, Enum)
"""Objects with an identity: a copy of one would be something else."""


def visible_level(value: Any, /, wanted: Callable[[Any], bool] = is_tensor) -> Level | None:
    """The children of a container, or of an object that holds a wanted tensor; None for a leaf."""
    level = _container_level(value)
    # A compiler can trace neither the search nor the copy of an object.
    if level is not None or isinstance(value, LEAVES) or compiling():
        return level
    level = _object_level(value)
    return None if level is None or find_tensor(value, wanted) is None else level


def structure_of(value: Any, /) -> Level | None:
    """The children of a container or of any object with attributes; None for a leaf."""
    level = _container_level(value)
    if level is not None or isinstance(value, LEAVES):
        return level
    return _object_level(value)


def _container_level(value: Any) -> Level | None:
    """The children of a container that a registry of pytrees knows; None for others."""
    if isinstance(value, tuple) and own_dict(cast("Any", value)):
        # A named tuple of a subclass may hold attributes beside its fields.
        return None
    return tree.level_of(value)


def is_object(value: Any, /) -> bool:
    """Whether a value is no leaf, and no container that a registry of pytrees knows."""
    return not isinstance(value, LEAVES) and tree.level_of(value) is None


def _object_level(value: Any) -> Level | None:
    """An object's items and attributes; None if it has none or cannot be built from them."""
    if isinstance(value, types.MappingProxyType):
        return _proxy_level(value)
    kind = cast("Any", type(value))
    base = _base_of(kind)
    if base is None:
        return None
    plan = _plan_of(value, kind, base)
    if not plan.children:
        return None
    return _with_inner_names(value, plan)


def _proxy_level(value: Any) -> Level:
    keys = list(value)
    build = partial(_to_proxy, keys)
    return Level(list(map(str, keys)), list(value.values()), build)


def _to_proxy(keys: list[Any], children: list[Any]) -> Any:
    return types.MappingProxyType(dict(zip(keys, children, strict=True)))


def _base_of(kind: Any) -> Any:
    """The builtin class that holds an object's items; None if the class cannot be copied."""
    if issubclass(kind, _WHOLE) or hasattr(kind, "__del__"):
        return None
    for parent in kind.__mro__:
        # A class in C has a __new__ in C; one in Python has none or a Python function.
        if isinstance(parent.__dict__.get("__new__"), types.BuiltinFunctionType):
            known = parent in _BASES
            return next(base for base in _BASES if issubclass(kind, base)) if known else None
    return None


class _Plan(NamedTuple):
    """How to build an object of one class from its children.

    Attributes:
        kind: The class.
        base: The builtin class that holds its items.
        keys: The items' keys.
        places: For each attribute the number of the child that it holds.
        children: The items, and then the attributes that are no items.
        is_own_dict: Whether the object is its own ``__dict__``.
        factory: A defaultdict's factory.
    """

    kind: Any
    base: Any
    keys: list[Any]
    places: dict[str, int]
    children: list[Any]
    is_own_dict: bool
    factory: Any

    def names(self) -> list[str]:
        """A name for each child: its key, or the attribute that holds it."""
        named = dict(enumerate(map(str, self.keys)))
        for name, number in self.places.items():
            named[number] = name
        return [named[number] for number in range(len(self.children))]

    def build(self, children: list[Any]) -> Any:
        """An object with other children; no ``__init__`` runs."""
        items = children[: len(self.keys)]
        made = self._with_items(items)
        if self.is_own_dict:
            object.__setattr__(made, "__dict__", made)
        slots = dict(slots_of(self.kind))
        for name, number in self.places.items():
            if name in slots:
                slots[name].__set__(made, children[number])
            else:
                made.__dict__[name] = children[number]
        return made

    def _with_items(self, items: list[Any]) -> Any:
        base: Any = self.base
        if base is tuple:
            return _TUPLE.__new__(self.kind, items)
        made = base.__new__(self.kind)
        if self.base in _MAPPING_BASES:
            for key, item in zip(self.keys, items, strict=True):
                base.__setitem__(made, key, item)
        elif items:
            base.extend(made, items)
        if self.base is defaultdict:
            made.default_factory = self.factory
        return made


def _plan_of(value: Any, kind: Any, base: Any) -> _Plan:
    items = _items_of(value, base)
    children = [item for _, item in items]
    numbers = {str(key): number for number, (key, _) in enumerate(items)}
    places: dict[str, int] = {}
    for name, attribute in attributes_of(value):
        # A ModelOutput holds each of its tensors twice: as an item and as an attribute.
        number = numbers.get(name)
        if number is None or children[number] is not attribute:
            number = len(children)
            children.append(attribute)
        places[name] = number
    keys = [key for key, _ in items]
    is_own_dict = own_dict(value) is value
    factory = value.default_factory if base is defaultdict else None
    return _Plan(kind, base, keys, places, children, is_own_dict, factory)


def _items_of(value: Any, base: Any) -> list[tuple[Any, Any]]:
    """Keys and items: of a dict, or with numbers as keys of a list or tuple."""
    if base in _MAPPING_BASES:
        return list(base.items(value))
    if base in _SEQUENCES:
        items: list[Any] = list(base.__iter__(value))
        return list(enumerate(items))
    return []


def _with_inner_names(value: Any, plan: _Plan) -> Level:
    """The level of an object; the items of a UserDict or UserList are its own."""
    names = plan.names()
    inner = tree.level_of(_data_of(value))
    if inner is None:
        return Level(names, plan.children, plan.build)
    at = plan.places["data"]
    outer = [i for i in range(len(names)) if i != at]
    outer_names = [names[i] for i in outer]
    outer_children = [plan.children[i] for i in outer]
    build = partial(_build_around, plan, at, inner)
    return Level(inner.names + outer_names, inner.children + outer_children, build)


def _data_of(value: Any) -> Any:
    wraps = isinstance(value, UserDict | UserList)
    return cast("Any", value).__dict__.get("data") if wraps else None


def _build_around(plan: _Plan, at: int, inner: Level, children: list[Any]) -> Any:
    """An object whose child ``at`` is a container of the first children."""
    count = len(inner.names)
    own = children[count:]
    own.insert(at, inner.unflatten(children[:count]))
    return plan.build(own)
