"""The attributes that an object itself holds, in its ``__dict__`` and in its slots."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, cast


def own_dict(value: Any, /) -> Any:
    """An object's ``__dict__``; None if it has none, whatever its ``__getattr__`` says."""
    has_one = cast("Any", type(value)).__dictoffset__ != 0
    return object.__getattribute__(value, "__dict__") if has_one else None


def attributes_of(value: Any, /) -> Iterator[tuple[str, Any]]:
    """Names and values of an object's attributes, without those of its class."""
    own = own_dict(value)
    # An object may be its own __dict__; its attributes are then its items.
    if isinstance(own, dict) and own is not value:
        yield from cast("dict[str, Any]", own).items()
    for name, slot in slots_of(cast("Any", type(value))):
        try:
            yield name, slot.__get__(value)
        except AttributeError:
            # The slot is empty.
            continue


def slots_of(kind: type, /) -> Iterator[tuple[str, Any]]:
    """Names and descriptors of the slots of a class and its parents."""
    for parent in kind.__mro__:
        if "__slots__" not in vars(parent):
            continue
        for name, member in vars(parent).items():
            if isinstance(member, types.MemberDescriptorType):
                yield name, member
