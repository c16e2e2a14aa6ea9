"""A table that a decorator enters handlers into; each file in this folder fills one."""

from __future__ import annotations

from collections.abc import Callable
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
            self.update(dict.fromkeys(functions, handler))
            return handler

        return enter
