"""A ``forward`` that shows the signature of the wrapped module's.

Trainers read it: a column of a dataset that ``forward`` does not name is dropped.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from types import FunctionType, MethodType
from typing import Any, cast

from torch import nn

from l0func.internal.context import compiling

_SHOWN = "_shown_forward"


def shows_signature(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator for ``forward``: every object may show a signature of its own."""
    return cast("Any", _ShownForward(function))


class _ShownForward:
    """The descriptor behind it.

    Args:
        function: The method's function.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __get__(self, module: nn.Module | None, owner: type | None = None) -> Callable[..., Any]:
        if module is None:
            return self.function
        if compiling():
            # A compiler makes no methods, and asks for no signature.
            return partial(self.function, module)
        return MethodType(vars(module).get(_SHOWN, self.function), module)


def show_signature(module: nn.Module, other: nn.Module) -> None:
    """Let a module's ``forward`` show the signature of another module's ``forward``.

    Args:
        module: The module.
        other: The module that it calls.
    """
    forward = inspect.getattr_static(type(module), "forward")
    try:
        arguments = inspect.signature(other.forward)
    except (TypeError, ValueError):
        # A forward in C has none.
        return
    if isinstance(forward, _ShownForward):
        own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        parameters = [own, *arguments.parameters.values()]
        shown = _with_own_attributes(cast("FunctionType", forward.function))
        vars(shown)["__signature__"] = arguments.replace(parameters=parameters)
        vars(module)[_SHOWN] = shown


def without_signature(attributes: dict[str, Any]) -> dict[str, Any]:
    """A module's attributes without the signature, which no pickle takes."""
    return {name: value for name, value in attributes.items() if name != _SHOWN}


def _with_own_attributes(function: FunctionType) -> FunctionType:
    """A function with the same code and attributes of its own."""
    new = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    new.__kwdefaults__, new.__doc__ = function.__kwdefaults__, function.__doc__
    new.__qualname__, new.__module__ = function.__qualname__, function.__module__
    return new
