"""Interception: a context where the library's handlers run in place of torch functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.overrides import TorchFunctionMode


class Interception(TorchFunctionMode):
    """A context that runs ``handlers[func](self, func, *args, **kwargs)`` in place of ``func``.

    A function without a handler runs as it is. The context is off inside a handler, so a handler
    can call torch's own function.

    Args:
        handlers: ``{torch function: handler}``.
    """

    def __init__(self, handlers: Mapping[Any, Callable[..., Any]]) -> None:
        super().__init__()
        self.handlers = handlers

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return self.run(func, args, kwargs)

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
        """The result of the function's handler, or of the function if it has none."""
        handler = self.handlers.get(func)
        kwargs = kwargs or {}
        if handler is None:
            return func(*args, **kwargs)
        return handler(self, func, *args, **kwargs)


def function_name(func: Any) -> str:
    """A torch function's name, as error messages show it."""
    return f"torch function {getattr(func, '__name__', func)!r}"
