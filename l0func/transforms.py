"""What may stand between the library and a tensor's values: a compiler, or a torch.func transform."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

untyped: Any = torch
"""torch, for those of its functions that have no types."""


def loose(tensor: Tensor, /) -> Any:
    """The tensor, for those of its methods that have no types."""
    return tensor


def listed(numbers: Tensor, /) -> list[int]:
    """A vector of integers as Python's."""
    return loose(numbers).tolist()


_COMPILES = hasattr(torch.compiler, "is_compiling")
_DYNAMO: Any = None if _COMPILES else import_module("torch._dynamo")


def compiling() -> bool:
    """Whether this code is being traced by torch.compile or torch.export.

    Raises:
        RuntimeError: It is, by torch 2.1, whose compiler follows neither vmap nor tensor subclasses.
    """
    if _COMPILES:
        return torch.compiler.is_compiling()
    if _DYNAMO.is_compiling():
        raise RuntimeError(f"l0func compiles on torch 2.2 and later; this is {torch.__version__}. Run it eagerly.")
    return False


def values(tensor: Any, /) -> Any:
    """The tensor's values as nested lists, or None where a transform, a compiler or a fake tensor hides them."""
    if compiling() or type(tensor) is not Tensor or tensor.is_meta:
        return None
    untyped: Any = tensor
    try:
        return untyped.tolist()
    except RuntimeError:
        # vmap's way to say that there is no one value.
        return None
