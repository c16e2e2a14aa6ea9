"""A context in which the library answers for some of torch's functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.overrides import TorchFunctionMode


class Answering(TorchFunctionMode):
    """Calls ``rules[func](self, func, *args, **kwargs)`` for a function with a rule, and the
    function itself for others.

    Args:
        rules: For each function that is answered for, a callable; inside it the function is
            torch's own again.
    """

    def __init__(self, rules: Mapping[Any, Callable[..., Any]]) -> None:
        super().__init__()
        self.rules = rules

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        rule = self.rules.get(func)
        kwargs = kwargs or {}
        return func(*args, **kwargs) if rule is None else rule(self, func, *args, **kwargs)
