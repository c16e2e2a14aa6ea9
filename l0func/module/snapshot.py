"""The attributes of modules at one moment, compared by identity."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, TypeAlias, cast

from torch import nn

from l0func.internal.context import compiling
from l0func.pure.part import is_bookkeeping

_WATCHED_MAPPINGS: tuple[Any, ...] = (dict, OrderedDict)
CONTAINERS: tuple[Any, ...] = (*_WATCHED_MAPPINGS, list, set)
"""The builtin containers that code changes in place."""

Container: TypeAlias = Any
"""A value of one of these types."""


class Fingerprint:
    """All attributes of some modules, and the items of the containers among them.

    It holds references to them, so that no other object can take their identity.

    Args:
        modules: The modules.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        modules = list(modules)
        self._modules = [(module, Snapshot(module, list(vars(module)))) for module in modules]
        # A module's attributes are a dict, and so a container like the others.
        self._containers = list(containers_in([vars(module) for module in modules]))
        self._sizes = list(map(len, self._containers))
        # The views of a dict follow its changes.
        self._views: list[Iterable[Any]] = []
        for container in self._containers:
            self._views.append(container)
            if is_mapping(container):
                self._views.append(container.values())
        self._items = list(chain.from_iterable(self._views))

    def fits(self) -> bool:
        """Whether the modules still have the same attributes, with the same items."""
        if list(map(len, self._containers)) != self._sizes:
            return False
        return all(map(operator.is_, chain.from_iterable(self._views), self._items))

    def fits_but_for(self, names: Sequence[Collection[str]]) -> bool:
        """The same, in code that a compiler follows, and without some attributes.

        Args:
            names: For each module, the names of attributes that may have changed.
        """
        for (module, snapshot), own in zip(self._modules, names, strict=True):
            if not snapshot.fits(module, own):
                return False
        return True


class Snapshot:
    """The attributes of one module now, and copies of some containers among them.

    Args:
        module: The module.
        containers: The names of the attributes with containers to copy.
    """

    def __init__(self, module: nn.Module, containers: Collection[str]) -> None:
        self.values: dict[str, Any] = dict(vars(module))
        self._copies: dict[int, tuple[Container, Container]] = {}
        for container in containers_in([self.values.get(name) for name in containers]):
            self._copies[id(container)] = (container, container.copy())

    def fits(self, module: nn.Module, but_for: Collection[str] = ()) -> bool:
        """Whether the module's attributes are the same, with the same items.

        Args:
            module: The module.
            but_for: The names of attributes that may have changed.
        """
        if not but_for:
            same = _is_same(vars(module), self.values)
            return same and all(_is_same(now, old) for now, old in self._copies.values())
        now, before = vars(module), self.values
        names = [name for name in {**before, **now} if name not in but_for]
        return not any(self._is_changed(name, now) for name in names)

    def changed(self, module: nn.Module) -> list[str]:
        """The names of attributes that are other objects now, or have other items."""
        if self.fits(module):
            return []
        now, names = vars(module), {**self.values, **vars(module)}
        return [name for name in names if self._is_changed(name, now)]

    def items_before(self, container: Container) -> Container | None:
        """A copy of the items that a container had; None for another container."""
        found = self._copies.get(id(container))
        return None if found is None else found[1]

    def everything(self) -> list[Any]:
        """All values in attributes and in containers, but for the containers themselves."""
        found = list(self.values.values())
        for _, copy in self._copies.values():
            found.extend(copy.values() if is_mapping(copy) else copy)
        return [value for value in found if type(value) not in CONTAINERS]

    def _is_changed(self, name: str, now: dict[str, Any]) -> bool:
        before, value = self.values.get(name, self), now.get(name, self)
        inside = [c for c in containers_in([value]) if id(c) in self._copies]
        return not _is(value, before) or any(not _is_same(*self._copies[id(c)]) for c in inside)


def container_names(module: nn.Module) -> list[str]:
    """The names of a module's attributes that hold containers, but for its hook tables."""
    named = vars(module).items()
    return [name for name, v in named if type(v) in CONTAINERS and not is_bookkeeping(name)]


def containers_in(values: Iterable[Any]) -> Iterator[Container]:
    """The containers among some values, and those inside them."""
    for value in values:
        if type(value) in CONTAINERS:
            yield value
            yield from containers_in(value.values() if is_mapping(value) else value)


def is_mapping(container: Container) -> bool:
    """Whether a container is a dict or an OrderedDict."""
    kind = cast("Any", type(container))
    return kind in _WATCHED_MAPPINGS


def _is_same(some: Container, others: Container) -> bool:
    """Whether two containers hold the same objects, in one order."""
    same = _is if compiling() else operator.is_
    if len(some) != len(others) or not all(map(same, some, others)):
        return False
    return not is_mapping(some) or all(map(same, some.values(), others.values()))


def _is(one: Any, other: Any) -> bool:
    """Whether two objects are the same; or tuples of the same, because a compiler makes copies."""
    if type(one) is tuple and type(other) is tuple:
        some, others = cast("tuple[Any, ...]", one), cast("tuple[Any, ...]", other)
        return len(some) == len(others) and all(map(_is, some, others))
    return one is other
