"""A function's signature: it gives a call's arguments their names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Signature(NamedTuple):
    """The arguments that a function can take.

    Args:
        names: The arguments that may be passed by position, in order.
        defaults: The default values by name.
    """

    names: tuple[str, ...]
    defaults: Mapping[str, Any]

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Signature:
        """The signature of a function.

        Call it at import: torch.compile cannot trace ``inspect``.
        """
        parameters = inspect.signature(function).parameters.values()
        positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        return cls(tuple(positional), defaults)

    def bind(self, args: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
        """One call's arguments by name, with defaults for those that it leaves out.

        Nothing is checked: the function itself refuses a call that does not fit.
        """
        count = min(len(self.names), len(args))
        by_position = {self.names[place]: args[place] for place in range(count)}
        return {**self.defaults, **by_position, **named}
