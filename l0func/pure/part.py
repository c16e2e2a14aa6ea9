"""One module of a tree without its tensors and submodules: the places of these, and the way back."""

from __future__ import annotations

import types
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

from torch import Tensor, nn


class _Slot(NamedTuple):
    """The place of a tensor."""

    path: str


class _Reference(NamedTuple):
    """The place of a weak reference to a tensor: a recurrent layer tells by them whether its
    weights were replaced.
    """

    path: str


class _Child(NamedTuple):
    """The place of a submodule."""

    number: int


class _Method(NamedTuple):
    """The place of a method bound to a submodule."""

    function: Any
    number: int


class Sites(NamedTuple):
    """Identities of the tensors and submodules of a tree."""

    tensors: dict[int, str]
    modules: dict[int, int]

    def abstract(self, value: Any) -> Any:
        """A value with places where it holds tensors, submodules or their methods."""
        if isinstance(value, Tensor):
            return _Slot(self.tensors[id(value)]) if id(value) in self.tensors else value
        if isinstance(value, nn.Module):
            return _Child(self.modules[id(value)]) if id(value) in self.modules else value
        if isinstance(value, types.MethodType) and id(value.__self__) in self.modules:
            return _Method(value.__func__, self.modules[id(value.__self__)])
        referent: Any = _referent(value)
        if referent is not None and id(referent) in self.tensors:
            return _Reference(self.tensors[id(referent)])
        return _rebuilt(value, self.abstract)


def _referent(value: Any) -> Any:
    return cast("Any", value)() if isinstance(value, weakref.ref) else None


def _rebuilt(value: Any, visit: Any) -> Any:
    """A builtin container with every item visited; anything else as it is."""
    if type(value) in (list, tuple, set):
        return type(value)(visit(item) for item in value)
    if type(value) in (dict, OrderedDict):
        return type(value)((name, visit(item)) for name, item in value.items())
    return value


@dataclass
class Part:
    """One module of the tree: its class, its plain attributes, and the places of everything else."""

    kind: type[nn.Module]
    plain: dict[str, Any]
    parameters: dict[str, _Slot | None]
    buffers: dict[str, _Slot | None]
    children: dict[str, _Child | None]
    mutable: dict[str, Any] = field(default_factory=dict[str, Any])

    def paths(self) -> dict[str, str]:
        """The paths of its own parameters and buffers by their names in the module."""
        return {
            name: slot.path
            for name, slot in (*self.parameters.items(), *self.buffers.items())
            if slot is not None
        }

    def attributes(self) -> dict[str, Any]:
        """Its attributes but tensors and submodules."""
        return self.plain | self.mutable

    def with_attribute(self, name: str, value: Any) -> Part:
        """The same with another value of one of them."""
        if name in self.mutable:
            return replace(self, mutable=self.mutable | {name: value})
        return replace(self, plain=self.plain | {name: value})

    @classmethod
    def of(cls, module: nn.Module, sites: Sites) -> Part:
        """A module without its tensors and submodules, which have their places in ``sites``."""
        registered = ("_parameters", "_buffers", "_modules")
        tables = [
            {name: sites.abstract(item) for name, item in vars(module)[key].items()}
            for key in registered
        ]
        part = cls(type(module), {}, *tables)
        for name, value in vars(module).items():
            if name in registered:
                continue
            placed = value if is_bookkeeping(name) else sites.abstract(value)
            (part.plain if placed is value else part.mutable)[name] = placed
        return part

    def fill(
        self, module: nn.Module, tensors: dict[str, Tensor], modules: list[nn.Module]
    ) -> None:
        """Give an empty module of this kind its attributes, straight into its ``__dict__``: no
        hook of its class runs.
        """

        def concrete(value: Any) -> Any:
            if type(value) is _Slot:
                return tensors[value.path]
            if type(value) is _Reference:
                return weakref.ref(tensors[value.path])
            if type(value) is _Child:
                return modules[value.number]
            if type(value) is _Method:
                return types.MethodType(value.function, modules[value.number])
            return _rebuilt(value, concrete)

        attributes = module.__dict__
        attributes.update(self.plain)
        attributes["_parameters"] = {
            n: None if s is None else tensors[s.path] for n, s in self.parameters.items()
        }
        attributes["_buffers"] = {
            n: None if s is None else tensors[s.path] for n, s in self.buffers.items()
        }
        attributes["_modules"] = {
            n: None if c is None else modules[c.number] for n, c in self.children.items()
        }
        for name, value in self.mutable.items():
            attributes[name] = concrete(value)

    def buffers_of(self, module: nn.Module) -> Iterable[tuple[str, Tensor]]:
        """Paths and tensors of the buffers that a filled module holds now."""
        for name, slot in self.buffers.items():
            if slot is not None:
                yield slot.path, getattr(module, name)


def is_bookkeeping(name: str) -> bool:
    """Whether an attribute is a hook table of nn.Module, which a call reads and does not write."""
    return (
        name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called"))
        or name == "_non_persistent_buffers_set"
    )
