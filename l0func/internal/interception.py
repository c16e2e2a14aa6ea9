"""Interception: a context where the library's handlers run in place of torch functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.overrides import TorchFunctionMode

from l0func.internal.untyped import untyped

_stack_size: Callable[[], int] = untyped._C._len_torch_function_stack
_in_stack: Callable[[int], Any] = untyped._C._get_function_stack_at


class Interception(TorchFunctionMode):
    """A context that runs ``handlers[func](self, func, *args, **kwargs)`` in place of ``func``.

    A function without a handler runs as it is. The context is off inside a handler, so a handler
    can call torch's own function.

    Args:
        handlers: ``{torch function: handler}``.

    Attributes:
        guard: A function of ``(func, args, kwargs)`` that looks at every call before it runs, or
            None.
    """

    guard: Callable[[Any, Any, Any], None] | None = None

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
        guard = self.guard
        if guard is not None:
            guard(func, args, kwargs)
        handler = self.handlers.get(func)
        kwargs = kwargs or {}
        if handler is None:
            return func(*args, **kwargs)
        return handler(self, func, *args, **kwargs)


def innermost(kind: type[Interception], /) -> Interception | None:
    """The context of this kind that was entered last; None outside of one."""
    for number in range(_stack_size() - 1, -1, -1):
        mode = _in_stack(number)
        if isinstance(mode, kind):
            return mode
    return None


def function_name(func: Any) -> str:
    """A torch function's name, as error messages show it."""
    return f"torch function {getattr(func, '__name__', func)!r}"
