"""Places: they stand in a part for tensors, modules, and values that hold one of these.

:class:`Places` puts them into a module's attributes, once; :class:`Contents` fills them, in every
call.
"""

from __future__ import annotations

import functools
import types
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any, cast

from torch import Tensor, nn

from l0func.internal.context import traced_by_dynamo
from l0func.pure.eager import eager_callable, eager_module, is_compiled


class Place(ABC):
    """Something to be filled anew in every call."""

    __slots__ = ()

    @abstractmethod
    def filled(self, contents: Contents) -> Any:
        """The value for one call."""


@dataclass(frozen=True, slots=True)
class TensorPlace(Place):
    """The place for a parameter or buffer."""

    path: str

    def filled(self, contents: Contents) -> Tensor:
        """The call's tensor."""
        return contents.tensors[self.path]


@dataclass(frozen=True, slots=True)
class ChildPlace(Place):
    """The place for a submodule; ``number`` counts the tree's modules."""

    number: int

    def filled(self, contents: Contents) -> nn.Module:
        """The call's module."""
        return contents.modules[self.number]


@dataclass(frozen=True, slots=True)
class MadePlace(Place):
    """The place for a value that a function makes from another one, such as a named tuple."""

    make: Callable[[Any], Any]
    template: Any

    def filled(self, contents: Contents) -> Any:
        """The value around the call's tensors and modules."""
        return self.make(contents.put_in(self.template))


@dataclass(frozen=True, slots=True)
class MethodPlace(Place):
    """The place for a method that is bound to a tensor, a module or another place."""

    function: Any
    owner: Any

    def filled(self, contents: Contents) -> Any:
        """The method, bound to the call's owner."""
        function, owner = contents.put_in(self.function), contents.put_in(self.owner)
        if traced_by_dynamo():
            # A compiler follows this, and not the line below.
            return functools.partial(function, owner)
        return types.MethodType(function, owner)


@dataclass(frozen=True, slots=True)
class BuiltinPlace(Place):
    """The place for one of a tensor's own methods, such as ``weight.matmul``."""

    name: str
    owner: TensorPlace

    def filled(self, contents: Contents) -> Any:
        """The method of the call's tensor."""
        return getattr(self.owner.filled(contents), self.name)


@dataclass(frozen=True, slots=True)
class PartialPlace(Place):
    """The place for a ``functools.partial``."""

    kind: Any
    function: Any
    args: Any
    keywords: Any
    attributes: Any

    def filled(self, contents: Contents) -> Any:
        """A partial of the call's function and arguments."""
        function = contents.put_in(self.function)
        args, keywords = contents.put_in(self.args), contents.put_in(self.keywords)
        made = self.kind(function, *args, **keywords)
        if self.attributes and not traced_by_dynamo():
            # A wrapped function's name and documentation, which a compiler does not copy.
            made.__dict__.update(contents.put_in(self.attributes))
        return made


@dataclass(frozen=True, slots=True)
class ObjectPlace(Place):
    """The place for a plain object, such as a dataclass: its class and its attributes."""

    kind: Any
    attributes: dict[str, Any]

    def filled(self, contents: Contents) -> Any:
        """The call's object; one for all who hold it."""
        known = contents.made_for(self)
        if known is None:
            known = contents.keep(self, self.kind.__new__(self.kind))
            _set_attributes(known, contents.put_in(self.attributes))
        return known


def _set_attributes(made: Any, attributes: dict[str, Any]) -> None:
    if not traced_by_dynamo():
        # Past descriptors of the class, which saw these values once.
        made.__dict__.update(attributes)
        return
    for name, value in attributes.items():
        object.__setattr__(made, name, value)


class Places:
    """The places for a tree's tensors and modules.

    Args:
        tensors: Paths of parameters and buffers, by ``id``.
        modules: Numbers of modules, by ``id``.
    """

    def __init__(self, tensors: Mapping[int, str], modules: Mapping[int, int]) -> None:
        self.tensors = tensors
        self.modules = modules
        # By id, with the container itself, so that its id stays its own.
        self._templates: dict[int, tuple[Any, Any]] = {}

    def put_in(self, value: Any) -> Any:
        """The value with places for the tensors and modules in it.

        Containers are copied; a container that two attributes share has one copy.
        """
        kind = cast("Any", type(value))
        if kind in _CONSTANTS:
            return value
        if kind in _MUTABLE or _is_plain_object(value):
            return self._template(value)
        if kind in _FIXED or _has_fields(value):
            return self._sequence(value)
        if kind in _WEAK:
            return self._weak(value)
        if isinstance(value, Tensor):
            path = self.tensors.get(id(value))
            return value if path is None else TensorPlace(path)
        if isinstance(value, nn.Module):
            number = self.modules.get(id(eager_module(value)))
            return value if number is None else ChildPlace(number)
        return self._callable(value)

    def _callable(self, value: Any) -> Any:
        if isinstance(value, functools.partial):
            return self._partial(cast("Any", value))
        if isinstance(value, types.MethodType):
            if isinstance(value.__self__, nn.Module) and is_compiled(value.__self__):
                return self.put_in(getattr(eager_module(value.__self__), value.__name__))
            owner = self.put_in(value.__self__)
            if isinstance(owner, Place):
                return MethodPlace(self.put_in(value.__func__), owner)
        if isinstance(value, _BUILTIN_METHODS):
            owner = self.tensors.get(id(value.__self__))
            return value if owner is None else BuiltinPlace(value.__name__, TensorPlace(owner))
        eager = eager_callable(value)
        if eager is not value:
            placed = self.put_in(eager)
            return placed if isinstance(placed, Place) else value
        return value

    def _partial(self, value: Any) -> Any:
        found: list[Any] = [value.func, value.args, value.keywords, value.__dict__]
        places = [self.put_in(item) for item in found]
        return PartialPlace(type(value), *places) if holds_place(places) else value

    def _weak(self, value: Any) -> Any:
        """A weak reference, or a container of these, to the call's tensors and modules."""
        make, strong = _strong(value)
        template = self.put_in(strong)
        return MadePlace(make, template) if holds_place(template) else value

    def _sequence(self, value: Any) -> Any:
        kind = value.__class__
        items: list[Any] = [self.put_in(item) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        if kind in _FIXED:
            return kind(items)
        return MadePlace(kind._make, items) if holds_place(items) else value

    def _template(self, value: Any) -> Any:
        known = self._templates.get(id(value))
        if known is not None:
            return known[1]
        if type(value) not in _MUTABLE:
            return self._object(value)
        template = _empty_like(value)
        self._templates[id(value)] = (value, template)
        _fill_container(template, value, self.put_in)
        return template

    def _object(self, value: Any) -> Any:
        attributes: dict[str, Any] = {}
        place = ObjectPlace(type(value), attributes)
        self._templates[id(value)] = (value, place)
        for name, item in list(value.__dict__.items()):
            attributes[name] = self.put_in(item)
        if holds_place(attributes, {id(place)}):
            return place
        self._templates[id(value)] = (value, value)
        return value


class Contents:
    """The tensors and modules for one call, to put into places.

    Args:
        tensors: By their paths.
        modules: By their numbers.
    """

    def __init__(self, tensors: Mapping[str, Tensor], modules: Sequence[nn.Module]) -> None:
        self.tensors = tensors
        self.modules = modules
        self._made: dict[int, Any] = {}
        self._traced: list[tuple[Any, Any]] = []

    def put_in(self, value: Any) -> Any:
        """The value with tensors and modules in their places; containers are new ones."""
        kind = cast("Any", type(value))
        if kind in _PLACES:
            return value.filled(self)
        if kind in _MUTABLE:
            return self._container(value)
        if kind in _FIXED:
            return kind([self.put_in(item) for item in value])
        return value

    def _container(self, template: Any) -> Any:
        known = self.made_for(template)
        if known is None:
            known = self.keep(template, _empty_like(template))
            _fill_container(known, template, self.put_in)
        return known

    def made_for(self, template: Any) -> Any:
        """The object that this call has made from a template, or None."""
        if not traced_by_dynamo():
            return self._made.get(id(template))
        # The compiler of torch 2.11 knows no id of a constant container.
        for other, made in self._traced:
            if other is template:
                return made
        return None

    def keep(self, template: Any, made: Any) -> Any:
        """Note the object that this call makes from a template, and return it."""
        if traced_by_dynamo():
            self._traced.append((template, made))
        else:
            self._made[id(template)] = made
        return made


def holds_place(value: Any, seen: set[int] | None = None) -> bool:
    """Whether a place is anywhere in nested containers."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return False
    seen.add(id(value))
    if isinstance(value, Place):
        return True
    kind = cast("Any", type(value))
    if kind in _MAPPINGS:
        pairs = [*value.keys(), *value.values()]
        return any(holds_place(item, seen) for item in pairs)
    is_container = kind in (*_MUTABLE, *_FIXED)
    return is_container and any(holds_place(item, seen) for item in value)


_PLACES = (
    TensorPlace,
    ChildPlace,
    MethodPlace,
    MadePlace,
    PartialPlace,
    ObjectPlace,
    BuiltinPlace,
)
_CONSTANTS = frozenset((type(None), bool, int, float, complex, str, bytes, type))
_MAPPINGS: tuple[Any, ...] = (dict, OrderedDict, defaultdict)
_FIXED: tuple[Any, ...] = (tuple, frozenset)
_MUTABLE: tuple[Any, ...] = (list, set, deque, *_MAPPINGS)
_REFERENCES: tuple[Any, ...] = (weakref.ref, weakref.WeakMethod)
_WEAK: tuple[Any, ...] = (
    weakref.WeakValueDictionary,
    weakref.WeakKeyDictionary,
    weakref.WeakSet,
    types.MappingProxyType,
    *_REFERENCES,
    *weakref.ProxyTypes,
)
_BUILTIN_METHODS: Any = (types.BuiltinMethodType, types.MethodWrapperType)


def _empty_like(container: Any) -> Any:
    kind = cast("Any", type(container))
    if kind is deque:
        return cast("Any", deque)(maxlen=container.maxlen)
    if kind is defaultdict:
        return cast("Any", defaultdict)(container.default_factory)
    if kind is OrderedDict:
        # A compiler follows the class by its name only.
        ordered: OrderedDict[Any, Any] = OrderedDict()
        return ordered
    return kind()


def _fill_container(new: Any, old: Any, change: Callable[[Any], Any]) -> None:
    """Put the changed items of one builtin container into another one of its kind."""
    kind = cast("Any", type(new))
    if kind in _MAPPINGS:
        for name, item in list(old.items()):
            new[change(name)] = change(item)
        return
    add = new.add if kind is set else new.append
    for item in list(old):
        add(change(item))


def _strong(value: Any) -> tuple[Callable[[Any], Any], Any]:
    """For a weak reference: the function that makes it, and the value to make it from."""
    kind = cast("Any", type(value))
    if kind in weakref.ProxyTypes:
        return weakref.proxy, _behind_proxy(value)
    if kind in _REFERENCES:
        return kind, value()
    items: Any = list if kind is weakref.WeakSet else dict
    return kind, items(value)


def _behind_proxy(proxy: Any) -> Any:
    try:
        # A bound method holds the object itself, not the proxy.
        return proxy.named_modules.__self__ if isinstance(proxy, nn.Module) else None
    except ReferenceError:
        return None


def _has_fields(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(cast("Any", value), "_fields")


def _is_plain_object(value: Any) -> bool:
    """Whether an object is a record: all that it holds is in its ``__dict__``, by convention."""
    kind = cast("Any", type(value))
    if kind is types.SimpleNamespace or kind is _WRAPPED_HOOK:
        return True
    is_record = is_dataclass(value) and not isinstance(value, type)
    is_other = isinstance(value, nn.Module | Tensor | Place | dict | list | tuple | set)
    return is_record and not is_other and hasattr(value, "__dict__")


_WRAPPED_HOOK: Any = getattr(nn.modules.module, "_WrappedHook", None)
