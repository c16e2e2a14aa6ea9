"""A bounded search for a tensor inside any object: in attributes, items, closures and frames."""

from __future__ import annotations

import gc
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from l0func.internal.attributes import attributes_of

_LIMIT = 50_000
"""The most objects that one search looks into, the nearest first."""

_EMPTY = (
    type(None), bool, int, float, complex, str, bytes, type, types.ModuleType, types.CodeType,
    types.BuiltinFunctionType, torch.dtype, torch.device, torch.Generator,
)  # fmt: skip
"""Objects without parts, and those with too many: a class or module leads to all others."""

_HEAP_TYPE = 1 << 9
"""The flag of a class that was made at run time, such as by a class statement."""


def is_tensor(value: Any, /) -> bool:
    """Whether a value is a tensor."""
    return isinstance(value, Tensor)


def find_tensor(value: Any, /, wanted: Callable[[Any], bool] = is_tensor) -> str | None:
    """The way to the nearest tensor in an object, as text such as ``.cache[0]``.

    Args:
        value: Any object.
        wanted: Whether a value is a tensor of the kind in question.

    Returns:
        The way, empty for ``value`` itself; None if no such tensor was found.
    """
    for way, _ in _search(value, wanted):
        return way
    return None


def hidden_tensors(value: Any, /) -> list[Tensor]:
    """All tensors in an object, the nearest first."""
    return [tensor for _, tensor in _search(value, is_tensor)]


def _search(value: Any, wanted: Callable[[Any], bool]) -> Iterator[tuple[str, Any]]:
    # Breadth first. What was seen is kept, so that no id is used twice.
    seen: dict[int, Any] = {id(value): value}
    queue: deque[tuple[str, Any]] = deque([("", value)])
    while queue:
        way, part = queue.popleft()
        if wanted(part):
            yield way, part
        for step, child in _parts_of(part):
            if isinstance(child, _EMPTY) or id(child) in seen:
                continue
            if len(seen) < _LIMIT:
                seen[id(child)] = child
                queue.append((way + step, child))


def _parts_of(value: Any) -> Iterator[tuple[str, Any]]:
    """The objects inside a value, each with the text that leads to it."""
    if isinstance(value, Tensor):
        return
    if isinstance(value, types.FunctionType):
        yield from _captured(value)
        return
    yield from _contents_of(value)
    if type(value) in (dict, list, tuple):
        return
    for name, attribute in attributes_of(value):
        yield f".{name}", attribute
    yield from _class_tensors(cast("Any", type(value)))
    for part in gc.get_referents(value):
        yield "", part


def _contents_of(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | types.MappingProxyType):
        for key, item in cast("Mapping[Any, Any]", value).items():
            yield f"[{key!r}]", item
    elif isinstance(value, list | tuple | deque):
        for number, item in enumerate(cast("list[Any]", value)):
            yield f"[{number}]", item
    elif isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
    elif isinstance(value, weakref.ref):
        yield "()", cast("Any", value)()
    elif type(value).__name__ == "ndarray" and value.dtype.hasobject:
        # Its items are invisible to the garbage collector.
        yield "", value.tolist()


def _captured(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """A function's own values; its globals are everyone's."""
    cells = function.__closure__ or ()
    for name, cell in zip(function.__code__.co_freevars, cells, strict=True):
        for content in gc.get_referents(cell):
            yield f".{name}", content
    yield ".__defaults__", function.__defaults__
    yield ".__kwdefaults__", function.__kwdefaults__
    yield "", function.__dict__


def _class_tensors(kind: type) -> Iterator[tuple[str, Tensor]]:
    """Tensors that the classes of an object hold for all of their objects."""
    for parent in kind.__mro__:
        if not parent.__flags__ & _HEAP_TYPE:
            continue
        for name, attribute in vars(parent).items():
            if isinstance(attribute, Tensor):
                yield f".{name}", attribute
