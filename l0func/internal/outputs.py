"""The tensors in a module's inputs and outputs: found with their places, and replaced.

An object of an unknown kind that holds tensors is an error, because they could not be replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from torch import Tensor

from l0func.internal.context import compiling
from l0func.internal.hidden import find_tensor, hidden_tensors, is_tensor
from l0func.internal.objects import level_of, structure_of
from l0func.internal.tree import LEAVES

Trail: TypeAlias = tuple[tuple[Any, str], ...]
"""The way to a value: every container above it, outermost first, with the name of the child."""

_MOST_COPIES = 10_000
"""The most objects that :func:`copied` copies: a large graph of objects takes no time."""


def walk(value: Any, /) -> Iterator[tuple[Trail, Any]]:
    """The leaves in containers and objects, each with the way to it."""
    return _walk(value, (), {})


def _walk(value: Any, trail: Trail, seen: dict[int, Any]) -> Iterator[tuple[Trail, Any]]:
    level = level_of(value)
    if level is None:
        yield trail, value
        return
    # A compiler would compile anew for every id.
    if not compiling():
        if id(value) in seen:
            return
        # Kept, so that no id is used twice.
        seen[id(value)] = value
    for name, child in zip(level.names, level.children, strict=True):
        yield from _walk(child, (*trail, (value, name)), seen)


def visible_tensors(value: Any, /) -> list[Tensor]:
    """The tensors in containers and objects, in order."""
    return [leaf for _, leaf in walk(value) if isinstance(leaf, Tensor)]


def hidden_in(value: Any, /, label: str) -> list[tuple[Tensor, TypeError]]:
    """The tensors in objects of unknown kind, each with an error about its object.

    Args:
        value: An input or output.
        label: A name for it in the error.
    """
    found: list[tuple[Tensor, TypeError]] = []
    for trail, leaf in walk(value):
        # A tensor may have other tensors as attributes.
        inside = vars(leaf) if isinstance(leaf, Tensor) else leaf
        if not isinstance(inside, LEAVES):
            error = _unknown_kind(leaf, place_of(label, trail), find_tensor(inside))
            found += [(tensor, error) for tensor in hidden_tensors(inside)]
    return found or _left_out(value, label)


def _left_out(value: Any, label: str) -> list[tuple[Tensor, TypeError]]:
    """The tensors that the registration of a class leaves out of its children."""
    visible = {id(tensor) for tensor in visible_tensors(value)}
    left = [tensor for tensor in hidden_tensors(value) if id(tensor) not in visible]
    if not left:
        return []
    way = find_tensor(value, lambda part: part is left[0])
    error = TypeError(
        f"{label} holds tensors that its pytree registration leaves out, such as {label}{way}. "
        "Register the class with all its tensors as children."
    )
    return [(tensor, error) for tensor in left]


def place_of(label: str, trail: Trail, /) -> str:
    """The place at the end of a way, as Python would write it: ``output['x'].y[0]``."""
    steps = "".join(_step(container, name) for container, name in trail)
    return (label + steps).removeprefix(".")


def _step(container: Any, name: str) -> str:
    if isinstance(container, Mapping) and name in map(str, cast("Mapping[Any, Any]", container)):
        return f"[{name!r}]"
    if isinstance(container, Sequence) and name.isdigit():
        return f"[{name}]"
    return f".{name}"


def check_leaf(
    leaf: Any, label: str, trail: Trail, wanted: Callable[[Any], bool], advice: str = ""
) -> None:
    """Refuse an object that cannot be taken apart, if it holds a wanted tensor.

    Args:
        leaf: A leaf.
        label: A name for the whole value in an error.
        trail: The way to the leaf.
        wanted: Whether a value is a tensor that matters.
        advice: A last sentence for the error.

    Raises:
        TypeError: It holds one.
    """
    # A compiler cannot trace the search.
    if isinstance(leaf, LEAVES) or compiling():
        return
    way = find_tensor(leaf, wanted)
    if way is not None:
        raise _unknown_kind(leaf, place_of(label, trail), way, advice)


def check_no_cycle(value: Any, label: str, trail: Trail) -> None:
    """Refuse an object that is inside itself.

    Raises:
        TypeError: It is one of the containers above it.
    """
    # A compiler cannot compare containers.
    if compiling():
        return
    if any(container is value for container, _ in trail):
        raise TypeError(
            f"{place_of(label, trail)} is a {type(value).__name__} that leads back to itself, and "
            "l0func cannot build it again with other tensors. Leave that reference out, or "
            "return the tensors alone."
        )


def _unknown_kind(leaf: Any, place: str, way: str | None, advice: str = "") -> TypeError:
    where = f"in {way}" if way else "inside"
    return TypeError(
        f"{place} is a {type(leaf).__name__}, which holds tensors {where}, and l0func cannot "
        "replace them there. Use tensors, or dicts, tuples, dataclasses and plain objects with "
        "tensors; or register the class with optree.register_pytree_node or "
        f"torch.utils._pytree.register_pytree_node.{advice}"
    )


def map_tensors(
    function: Callable[[Tensor], Tensor],
    value: Any,
    /,
    label: str,
    wanted: Callable[[Any], bool] = is_tensor,
) -> Any:
    """The value with ``function(tensor)`` for each tensor, in containers and objects.

    Objects keep their classes. An object without a wanted tensor stays the very same.

    Args:
        function: The function.
        value: An input or output.
        label: A name for it in an error.
        wanted: Whether a value is a tensor that the function changes.

    Raises:
        TypeError: A wanted tensor is in an object that cannot be built again.
    """
    return _Change(function, label, wanted).of(value, ())


@dataclass(frozen=True)
class _Change:
    """A function over all tensors in a value, as :func:`map_tensors` takes it."""

    function: Callable[[Tensor], Tensor]
    label: str
    wanted: Callable[[Any], bool]

    def of(self, value: Any, trail: Trail) -> Any:
        """The changed value at the end of a way."""
        if isinstance(value, Tensor):
            return self.function(value)
        level = level_of(value, self.wanted)
        if level is None:
            check_leaf(value, self.label, trail, self.wanted)
            return value
        check_no_cycle(value, self.label, trail)
        children: list[Any] = []
        for name, child in zip(level.names, level.children, strict=True):
            children.append(self.of(child, (*trail, (value, name))))
        return level.unflatten(children)


def copied(function: Callable[[Tensor], Tensor], value: Any, /) -> Any:
    """The value with new containers and objects, and with ``function(tensor)`` for each tensor.

    A call on the copy changes no object of the caller's, such as a cache. Objects that cannot be
    built again stay the same.
    """
    return _Copies(function).of(value)


class _Copies:
    """The copies that one call of :func:`copied` made; an object has one copy."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self.made: dict[int, tuple[Any, Any]] = {}

    def of(self, value: Any) -> Any:
        """The copy of a value."""
        if isinstance(value, LEAVES):
            return self.function(value) if isinstance(value, Tensor) else value
        if id(value) in self.made:
            return self.made[id(value)][1]
        level = structure_of(value)
        if level is None or len(self.made) >= _MOST_COPIES:
            return value
        # The value itself, until its copy exists: it may lead back to itself.
        self.made[id(value)] = value, value
        copy = level.unflatten([self.of(child) for child in level.children])
        self.made[id(value)] = value, copy
        return copy
