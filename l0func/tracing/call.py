"""One call to one torch operation. Every transfer function takes one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor


@dataclass(frozen=True)
class Call:
    """One call to an ATen operation, after it ran.

    Attributes:
        func: The operation, an ``OpOverload``.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        outputs: The tensors that it returned.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Tensor, ...]

    @property
    def name(self) -> str:
        """The operation's name, such as ``"add_"``."""
        return operation_name(self.func)

    @property
    def writes_in_place(self) -> bool:
        """Whether the operation overwrites its first argument."""
        return self.name.endswith("_")

    def tensors(self) -> Iterator[Tensor]:
        """All tensors among the arguments, also those in lists."""
        for value in (*self.args, *self.kwargs.values()):
            yield from tensors_in_lists(value)

    def argument(self, name: str, default: Any = None) -> Any:
        """The argument with this name in the operation's schema, given by place or by keyword."""
        names = self._argument_names()
        if name not in names:
            return default
        place = names.index(name)
        if place < len(self.args):
            return self.args[place]
        return self.kwargs.get(name, default)

    def takes(self, name: str) -> bool:
        """Whether the operation's schema has an argument with this name."""
        return name in self._argument_names()

    def _argument_names(self) -> list[str]:
        return [argument.name for argument in self.func._schema.arguments]


def operation_name(func: Any) -> str:
    """An ATen operation's name without its overload."""
    return func.overloadpacket.__name__


def tensors_in_lists(value: Any) -> Iterator[Tensor]:
    """The tensors in nested lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in cast("Sequence[Any]", value):
            yield from tensors_in_lists(item)
