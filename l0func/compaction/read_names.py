"""The names that the forward of a class reads, in its code and in the methods that it calls."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from functools import cache
from typing import Any

from torch import nn


@cache
def names_read_by(kind: type) -> frozenset[str]:
    """The attribute names in forward, and in all methods and properties that it names.

    A name is no proof of a read: another object may have an attribute of the same name.

    Args:
        kind: A module's class.
    """
    members = _names_by_member(kind)
    found: set[str] = set()
    waiting = ["forward"]
    while waiting:
        names = members.pop(waiting.pop(), set())
        found |= names
        waiting += names & members.keys()
    return frozenset(found)


def _names_by_member(kind: type) -> dict[str, set[str]]:
    """The names in the code of every method and property, those of its parents included."""
    found: dict[str, set[str]] = {}
    for parent in kind.__mro__:
        if parent is nn.Module:
            break
        for name, member in vars(parent).items():
            function = getattr(member, "fget", getattr(member, "__func__", member))
            found.setdefault(name, set()).update(_names_in(function))
    return found


def _names_in(function: Any) -> set[str]:
    if not callable(function) or isinstance(function, type):
        return set()
    code = getattr(inspect.unwrap(function), "__code__", None)
    return set() if code is None else {name for part in _codes_in(code) for name in part.co_names}


def _codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    """A function's code, and the code of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes_in(constant)
