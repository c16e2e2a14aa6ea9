"""The names that the kernels take from Triton, which have no types."""

from __future__ import annotations

from importlib import import_module
from typing import Any, TypeAlias

OLDEST = (3, 3)
"""Earlier versions take no tuple as a kernel's argument."""


def _checked(module: Any) -> Any:
    found = tuple([int(number) for number in module.__version__.split(".")[:2]])
    if found < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ImportError(f"l0func needs Triton {oldest} or later, and finds {module.__version__}")
    return module


triton: Any = _checked(import_module("triton"))
tl: Any = import_module("triton.language")

# Triton looks for this word in a kernel's annotations.
constexpr: TypeAlias = Any
