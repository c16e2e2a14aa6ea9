"""The names that the kernels take from Triton, which have no types."""

from __future__ import annotations

from importlib import import_module
from typing import Any, TypeAlias

triton: Any = import_module("triton")
tl: Any = import_module("triton.language")

# Triton looks for this word in a kernel's annotations.
constexpr: TypeAlias = Any
