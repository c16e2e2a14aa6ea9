"""What a rule of the trace is given: one call of one operation, and what is known of its tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from l0func.tracing.trace import AbstractValue, Trace, Weight
from l0func.tracing.units import NONE, Units


@dataclass(frozen=True)
class Call:
    """One call of an operation, with the tensors that it returned."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Tensor, ...]

    @property
    def name(self) -> str:
        """The operation's name."""
        return self.func.overloadpacket.__name__

    def tensors(self) -> Iterator[Tensor]:
        """All tensors among the arguments, those in lists too."""
        for value in (*self.args, *self.kwargs.values()):
            if isinstance(value, Tensor):
                yield value
            elif isinstance(value, list | tuple):
                yield from (
                    item for item in cast("Sequence[Any]", value) if isinstance(item, Tensor)
                )

    def argument(self, name: str, default: Any = None) -> Any:
        """The argument of this name, wherever it was given."""
        for place, formal in enumerate(self.func._schema.arguments):
            if formal.name == name:
                return (
                    self.args[place] if place < len(self.args) else self.kwargs.get(name, default)
                )
        return default


class Followed(ABC):
    """What rules read and write."""

    trace: Trace

    @abstractmethod
    def value_of(self, tensor: Tensor) -> AbstractValue | None:
        """What is known of a tensor."""

    @abstractmethod
    def set(self, tensor: Tensor, state: AbstractValue) -> None:
        """Know a tensor."""

    @abstractmethod
    def steady(self, tensor: Tensor) -> bool:
        """Whether all of a tensor is constant where what makes its units is zero."""

    @property
    def units(self) -> Units:
        """The units of the trace."""
        return self.trace.units

    def labels(self, tensor: Tensor) -> Tensor:
        """The unit of every element; for a parameter that is used as a value every entry is a
        unit.
        """
        state = self.value_of(tensor)
        if state is None:
            return torch.full((1,) * tensor.dim(), NONE).expand(tensor.shape)
        return self.trace.elements(state) if isinstance(state, Weight) else state

    def weight(self, tensor: Tensor | None) -> Weight | None:
        """The parameter that a tensor is, if it is one."""
        state = None if tensor is None else self.value_of(tensor)
        return state if isinstance(state, Weight) else None


Transfer = Callable[[Followed, Call], None]
