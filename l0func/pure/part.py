"""One module of a tree without its tensors and submodules: places stand for them.

:class:`Part` is that module, and it can fill a new one. ``PureModule`` holds one part for each
module; ``compaction`` changes the sizes in them.
"""

from __future__ import annotations

import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

from torch import Tensor, nn


class _TensorPlace(NamedTuple):
    """The place for a parameter or buffer."""

    path: str


class _ReferencePlace(NamedTuple):
    """The place for a weak reference to a parameter or buffer.

    Recurrent layers hold such references, to notice that a weight was replaced.
    """

    path: str


class _ChildPlace(NamedTuple):
    """The place for a submodule; ``number`` counts the tree's modules."""

    number: int


class _MethodPlace(NamedTuple):
    """The place for a method that is bound to one of the tree's modules."""

    function: Any
    number: int


class Places(NamedTuple):
    """The places for a tree's tensors and modules.

    Args:
        tensors: Paths of parameters and buffers, by ``id``.
        modules: Numbers of modules, by ``id``.
    """

    tensors: Mapping[int, str]
    modules: Mapping[int, int]

    def put_in(self, value: Any) -> Any:
        """The value with places for the tensors, modules and methods in it."""
        if isinstance(value, Tensor):
            path = self.tensors.get(id(value))
            return value if path is None else _TensorPlace(path)
        if isinstance(value, nn.Module):
            number = self.modules.get(id(value))
            return value if number is None else _ChildPlace(number)
        if isinstance(value, types.MethodType):
            number = self.modules.get(id(value.__self__))
            return value if number is None else _MethodPlace(value.__func__, number)
        path = self.tensors.get(id(_referent(value)))
        if path is not None:
            return _ReferencePlace(path)
        return _map_items(value, self.put_in)


class Contents(NamedTuple):
    """The tensors and modules for one call, to put into places.

    Args:
        tensors: By their paths.
        modules: By their numbers.
    """

    tensors: Mapping[str, Tensor]
    modules: Sequence[nn.Module]

    def put_in(self, value: Any) -> Any:
        """The value with tensors, modules and methods in their places."""
        if type(value) is _TensorPlace:
            return self.tensors[value.path]
        if type(value) is _ReferencePlace:
            return weakref.ref(self.tensors[value.path])
        if type(value) is _ChildPlace:
            return self.modules[value.number]
        if type(value) is _MethodPlace:
            return types.MethodType(value.function, self.modules[value.number])
        return _map_items(value, self.put_in)


def _referent(value: Any) -> Any:
    return cast("Any", value)() if isinstance(value, weakref.ref) else None


_SEQUENCES: tuple[Any, ...] = (list, tuple, set)
_MAPPINGS: tuple[Any, ...] = (dict, OrderedDict)


def _map_items(value: Any, change: Callable[[Any], Any]) -> Any:
    """A builtin container with every item changed; anything else as it is."""
    kind = cast("Any", type(value))
    if kind in _SEQUENCES:
        return kind(change(item) for item in value)
    if kind in _MAPPINGS:
        pairs = [(name, change(item)) for name, item in value.items()]
        return kind(pairs)
    return value


_REGISTERED = ("_parameters", "_buffers", "_modules")


@dataclass
class Part:
    """One module: its class, its plain attributes, and places for everything else.

    Args:
        kind: Its class.
        plain: The attributes that all calls share.
        parameters: Places for its own parameters, by name; None for a name without a parameter.
        buffers: Places for its own buffers, likewise.
        children: Places for its children, likewise.
        mutable: The other attributes: containers, and values that hold tensors or modules. Places
            stand for those, and every call gets its own copies.
    """

    kind: type[nn.Module]
    plain: dict[str, Any]
    parameters: dict[str, _TensorPlace | None]
    buffers: dict[str, _TensorPlace | None]
    children: dict[str, _ChildPlace | None]
    mutable: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, module: nn.Module, places: Places) -> Part:
        """The part for one module.

        Args:
            module: A module in the tree.
            places: The tree's places.
        """
        attributes = vars(module)
        tables = [places.put_in(dict(attributes[table])) for table in _REGISTERED]
        part = cls(type(module), {}, *tables)
        for name, value in attributes.items():
            if name in _REGISTERED:
                continue
            placed = value if is_bookkeeping(name) else places.put_in(value)
            home = part.plain if placed is value else part.mutable
            home[name] = placed
        return part

    def paths(self) -> dict[str, str]:
        """Paths of its own parameters and buffers, by their names in the module."""
        places = self.parameters | self.buffers
        return {name: place.path for name, place in places.items() if place is not None}

    def attributes(self) -> dict[str, Any]:
        """Its attributes, without tensors and submodules."""
        return self.plain | self.mutable

    def with_attribute(self, name: str, value: Any) -> Part:
        """The same part with another value for one attribute."""
        if name in self.mutable:
            return replace(self, mutable=self.mutable | {name: value})
        return replace(self, plain=self.plain | {name: value})

    def fill(self, module: nn.Module, contents: Contents) -> None:
        """Give an empty module of this kind its attributes.

        They go straight into its ``__dict__``, so that the class's ``__setattr__`` does not run.
        """
        tensors, modules = contents
        attributes = module.__dict__
        attributes.update(self.plain)
        attributes["_parameters"] = {
            name: None if place is None else tensors[place.path]
            for name, place in self.parameters.items()
        }
        attributes["_buffers"] = {
            name: None if place is None else tensors[place.path]
            for name, place in self.buffers.items()
        }
        attributes["_modules"] = {
            name: None if place is None else modules[place.number]
            for name, place in self.children.items()
        }
        for name, value in self.mutable.items():
            attributes[name] = contents.put_in(value)

    def buffers_of(self, module: nn.Module) -> Iterable[tuple[str, Tensor]]:
        """Paths and tensors of the buffers that a filled module holds now."""
        for name, place in self.buffers.items():
            if place is not None:
                yield place.path, getattr(module, name)


def is_bookkeeping(name: str) -> bool:
    """Whether an attribute is one of nn.Module's tables that a call reads and does not write."""
    is_hook_table = name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called"))
    return is_hook_table or name == "_non_persistent_buffers_set"
