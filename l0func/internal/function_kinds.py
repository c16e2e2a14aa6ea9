"""Torch functions that write into a tensor; a gated parameter refuses them.

:mod:`l0func.internal.descriptions` has the functions that ignore a tensor's values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from l0func.internal.context import compiling

_OPERATORS = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")
_IN_PLACE_DUNDERS = ("__setitem__", *(f"__i{name}__" for name in _OPERATORS))


def _writing() -> Iterator[Any]:
    homes: tuple[Any, ...] = (Tensor, torch, torch.nn.init)
    for home in homes:
        for name in dir(home):
            function = getattr(home, name) if _names_a_writer(name) else None
            if callable(function):
                yield function


def _names_a_writer(name: str) -> bool:
    in_place = name.endswith("_") and not name.startswith("_")
    return in_place or name in _IN_PLACE_DUNDERS


WRITERS = frozenset(_writing())
"""Functions that write into their first argument."""

_LISTED_WRITERS = tuple(WRITERS)


def writes(func: Any) -> bool:
    """Whether a torch function writes into its first argument, or sets a property of it."""
    if compiling():
        # The compiler cannot hash all of these functions, but it can compare them.
        return any(func is writer for writer in _LISTED_WRITERS)
    return func in WRITERS or getattr(func, "__name__", "") == "__set__"
