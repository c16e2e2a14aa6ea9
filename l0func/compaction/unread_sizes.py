"""Sizes that modules keep and forward does not read, set after a removal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from l0func.compaction.attributes import lowered
from l0func.compaction.near_sizes import NearSizes, near_sizes
from l0func.compaction.size_attributes import (
    SizeNumber,
    UnclearSize,
    has_numbers,
    new_value,
    with_near_sizes,
)
from l0func.compaction.size_words import is_head_size, meaning
from l0func.internal.attributes import attributes_of
from l0func.pure.functional import Functional
from l0func.pure.part import Part


def with_unread_sizes(whole: Functional, small: Functional) -> Functional:
    """A smaller function whose modules also hold right sizes where forward does not read them.

    A number that does not follow from the shapes stays.

    Args:
        whole: The function before the removal, with its tensors.
        small: The function after the removal, with its tensors.
    """
    tensors = {**whole.params, **whole.buffers}
    before = {path: tuple(tensor.shape) for path, tensor in tensors.items()}
    left = {**small.params, **small.buffers}
    after = {path: tuple(tensor.shape) for path, tensor in left.items()}
    near = near_sizes(dict(whole.fn.parts()), before, after)
    parts = {path: with_near_sizes(path, part, near) for path, part in small.fn.parts()}
    return small._replace(fn=small.fn.resized(after, with_shared_sizes(parts, near)))


def with_shared_sizes(parts: Mapping[str, Part], near: NearSizes) -> dict[str, Part]:
    """The parts with right sizes in the objects that they share, such as a config.

    A number changes where all modules that it describes agree. A head count changes only in an
    object that also holds the heads' size: otherwise a module built from it would have heads of
    another size.

    Args:
        parts: The modules after the removal.
        near: The sizes near every module, and the modules before.
    """
    changed = dict(parts)
    for name, shared in _shared_objects(near.parts):
        fixed = shared
        for inner, value in attributes_of(shared):
            new = _agreed(name, shared, inner, near) if type(value) is int else None
            if new is not None and new < value:
                fixed = lowered(fixed, (inner,), value - new, f"{name}.{inner}")
        for path, part in changed.items():
            if fixed is not shared and part.attribute(name) is shared:
                changed[path] = part.with_attribute(name, fixed)
    return changed


def _shared_objects(parts: Mapping[str, Part]) -> Iterator[tuple[str, Any]]:
    """The objects that the root shares with other modules under one name."""
    root = parts[""]
    others = [part for path, part in parts.items() if path]
    for name, value in root.attributes().items():
        if has_numbers(value) and any(part.attribute(name) is value for part in others):
            yield name, value


def _agreed(name: str, shared: Any, inner: str, near: NearSizes) -> int | None:
    """The new value of a shared number; None if nothing tells it, or modules disagree."""
    value = getattr(shared, inner)
    is_count = meaning(inner) == "share"
    if value < 2 or (is_count and not _head_sizes(dict(attributes_of(shared)))):
        return None
    values: set[int] = set()
    for path, part in near.parts.items():
        own = part.attribute(inner)
        has_heads = is_count and bool(_head_sizes(part.attributes()))
        if own != value and not (has_heads and part.attribute(name) is shared):
            continue
        try:
            values.add(new_value(SizeNumber(path, (inner,), value, False), near))
        except UnclearSize:
            return None
    return values.pop() if len(values) == 1 else None


def _head_sizes(attributes: Mapping[str, Any]) -> set[int]:
    """The sizes of heads among attributes."""
    found: set[int] = set()
    for name, value in attributes.items():
        if type(value) is int and is_head_size(name):
            found.add(value)
    return found
