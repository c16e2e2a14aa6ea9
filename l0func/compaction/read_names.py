"""The names that the code of a class reads, apart from its constructor."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from functools import cache
from typing import Any

from torch import nn


@cache
def names_read_by(kind: type) -> frozenset[str]:
    """The attribute names in the methods of a module's class, parents of the author included.

    A name is no proof of a read: another object may have an attribute of the same name.

    Args:
        kind: The class. Its constructors do not count: they run before the sizes change.
    """
    found: set[str] = set()
    for parent in kind.__mro__:
        if parent is nn.Module:
            break
        for member in vars(parent).values():
            function = getattr(member, "fget", getattr(member, "__func__", member))
            found |= _names_in(function)
    return frozenset(found)


def _names_in(function: Any) -> set[str]:
    if not callable(function) or isinstance(function, type):
        return set()
    inner = inspect.unwrap(function)
    code = getattr(inner, "__code__", None)
    if code is None or code.co_name == "__init__":
        return set()
    return {name for part in _codes_in(code) for name in part.co_names}


def _codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    """A function's code, and the code of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes_in(constant)
