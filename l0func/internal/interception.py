"""A context in which the library answers for some of torch's functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.overrides import TorchFunctionMode


class Interception(TorchFunctionMode):
    """Calls ``handlers[func](self, func, *args, **kwargs)`` for a function with a handler, and the
    function itself for others.

    Args:
        handlers: For each function that is answered for, a callable; inside it the function is
            torch's own again.
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
        handler = self.handlers.get(func)
        kwargs = kwargs or {}
        return func(*args, **kwargs) if handler is None else handler(self, func, *args, **kwargs)


def function_name(func: Any) -> str:
    """A torch function's name, as error messages show it."""
    return f"torch function {getattr(func, '__name__', func)!r}"
