"""From plain functions to Triton's: names bound to Triton's vocabulary and to a formula.

A kernel is a *template*: a function in a file of this folder, whose global names ``prepare``,
``draw`` and ``tails`` stand for a formula's functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dis import get_instructions
from functools import cache
from types import FunctionType
from typing import Any

from l0func.kernels import vocabulary
from l0func.kernels.by_triton import normal, scalars
from l0func.kernels.by_triton.triton_names import tl, triton
from l0func.kernels.formula import Formula


def kernel(template: Any, formula: Formula) -> Any:
    """A template for a formula's functions, compiled at its first launch."""
    return _with_functions(template, *formula.functions.items())


@cache
def _with_functions(template: Any, *functions: tuple[str, Any]) -> Any:
    # The settings are arguments: formulas that differ in them alone share a kernel.
    names = {**template.__globals__, **dict(functions)}
    return compiled(template, names)


@cache
def _bound(function: Any) -> Any:
    """A formula, or a helper, for calls from kernels."""
    return compiled(function, function.__globals__)


def compiled(function: Any, names: Mapping[str, Any]) -> Any:
    """Triton's version of a function, with the functions that it reads bound first."""
    # The interpreter looks for the name tl in every function, and the compiler reads annotations.
    bound = {**names, "tl": tl, "Any": tl.tensor, "constexpr": tl.constexpr}
    for name in _names_read(function):
        value = names.get(name)
        if name in vocabulary.NAMES:
            bound[name] = _bound(_scalar(name))
        elif isinstance(value, FunctionType):
            bound[name] = _bound(value)
    copy = FunctionType(function.__code__, bound, function.__name__, function.__defaults__)
    copy.__module__, copy.__qualname__ = function.__module__, function.__qualname__
    copy.__annotations__ = function.__annotations__
    return triton.jit(copy)


def _scalar(name: str) -> Any:
    return getattr(normal if hasattr(normal, name) and name.startswith("ndtr") else scalars, name)


def _names_read(function: Any) -> set[str]:
    return {str(i.argval) for i in get_instructions(function) if i.opname == "LOAD_GLOBAL"}
