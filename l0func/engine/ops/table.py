"""A table that a decorator enters handlers into; each file in this folder fills one.

A call with an argument that its handler does not know, such as ``out=`` or NumPy's ``axis=``, runs
on the product of weight and mask.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from l0func.engine.parameter import Handler

AnyHandler = TypeVar("AnyHandler", bound=Handler)


class HandlerTable(dict[Any, Handler]):
    """``{torch function: handler}``.

    Example:
        >>> HANDLERS = HandlerTable()
        >>> @HANDLERS.runs_for("torch.neg", "Tensor.neg")
        ... def negated(input):
        ...     return -input
        >>> sorted(HANDLERS)
        ['Tensor.neg', 'torch.neg']
    """

    def runs_for(self, *functions: Any) -> Callable[[AnyHandler], AnyHandler]:
        """A decorator that enters its function as the handler for these torch functions."""

        def enter(handler: AnyHandler) -> AnyHandler:
            self.update(dict.fromkeys(functions, _with_known_names(handler)))
            return handler

        return enter


def _with_known_names(handler: Handler) -> Handler:
    """The handler, for the keyword arguments that it has; any other is not implemented."""
    parameters = inspect.signature(handler).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return handler
    names = tuple(parameters)

    @wraps(handler)
    def with_known_names(*args: Any, **named: Any) -> Any:
        for name in named:
            if name not in names:
                return NotImplemented
        return handler(*args, **named)

    return with_known_names
