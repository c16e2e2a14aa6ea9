"""Functions that hold the module that a pure function was made from, and may write on it.

A call reads its own containers and attributes, so what a closure writes on the original is lost.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

from torch import nn

from l0func.internal.context import traced_by_dynamo
from l0func.internal.outputs import visible_tensors
from l0func.pure.holders import Held, Unsearched


class _Writer(NamedTuple):
    """A module of the original, and the way by which a function holds it."""

    module: weakref.ref[nn.Module]
    route: str


class Before(NamedTuple):
    """An original's module before a call: its attributes, and copies of its containers."""

    module: nn.Module
    route: str
    values: dict[str, Any]
    copies: dict[str, Any]


class Writers(Unsearched):
    """The original's modules that functions hold.

    Args:
        modules: The original's modules.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.modules = [weakref.ref(module) for module in modules]
        self.writers: list[_Writer] = []

    def find(self, found: Iterable[Held]) -> None:
        """Note the modules among what functions hold, those below them, and their containers."""
        own = {id(module): module for module in self.alive()}
        owners: dict[int, nn.Module] = {}
        for module in own.values():
            containers = [value for value in vars(module).values() if type(value) in _COPIED]
            owners.update((id(container), module) for container in containers)
        known: dict[int, _Writer] = {}
        for held in found:
            below: Sequence[Any] = [owners.get(id(held.value))]
            if isinstance(held.value, nn.Module):
                below = list(held.value.modules())
            for module in below:
                if id(module) in own:
                    known.setdefault(id(module), _Writer(weakref.ref(module), held.route))
        self.writers = list(known.values())

    def alive(self) -> list[nn.Module]:
        """The original's modules that still exist."""
        modules = [reference() for reference in self.modules]
        return [module for module in modules if module is not None]

    @contextmanager
    def refused(self) -> Generator[None, None, None]:
        """A context for a call: tensors that it writes on the original are an error.

        Raises:
            ValueError: A function wrote one.
        """
        if traced_by_dynamo():
            yield
            return
        before = self.before()
        try:
            yield
        except Exception as error:
            # The call misses what a function wrote elsewhere.
            self.check(before, error)
            raise
        self.check(before)

    def before(self) -> list[Before]:
        """The modules' attributes now."""
        found: list[Before] = []
        for writer in self.writers:
            module = writer.module()
            if module is not None:
                found.append(_before(module, writer.route))
        return found

    def check(self, before: Iterable[Before], error: Exception | None = None) -> None:
        """Refuse a call that has written tensors on the original.

        Args:
            before: The modules' attributes before the call.
            error: What the call raised.

        Raises:
            ValueError: It has.
        """
        for state in before:
            for name in vars(state.module):
                if _is_written(state, name):
                    raise _written_on(state, name) from error


_COPIED: tuple[Any, ...] = (dict, OrderedDict, defaultdict, list, set, deque)


def _before(module: nn.Module, route: str) -> Before:
    values = dict(vars(module))
    held = {name: value for name, value in values.items() if type(value) in _COPIED}
    return Before(module, route, values, {name: value.copy() for name, value in held.items()})


def _is_written(state: Before, name: str) -> bool:
    """Whether an attribute has a new tensor in it."""
    now = vars(state.module).get(name)
    if now is not state.values.get(name):
        return bool(visible_tensors(now))
    if name not in state.copies:
        return False
    old = {id(item) for item in _values_of(state.copies[name])}
    new = [item for item in _values_of(now) if id(item) not in old]
    return bool(new) and bool(visible_tensors(new))


def _values_of(container: Any) -> list[Any]:
    if isinstance(container, dict):
        return list(cast("dict[Any, Any]", container).values())
    return list(container)


def _written_on(state: Before, name: str) -> ValueError:
    kind = type(state.module).__name__
    return ValueError(
        f"A function wrote a tensor into {name!r} of the {kind} that make_functional was given. "
        f"It has that module from {state.route}. The call runs on modules of its own, and reads "
        "their attributes. Make the function a method of the module, as in "
        "layer.register_forward_hook(self.save), or let it write into an object outside of the "
        "module."
    )
