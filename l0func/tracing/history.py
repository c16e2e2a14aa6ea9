"""The history of a forward pass: the tensors that each step read and made.

It answers two questions. Liveness: do the outputs depend on a step? Dependence on data: does a
tensor depend on inputs or parameters, or only on sizes? The tracer writes the history. Tensors
appear as their ``id``. The history keeps them alive, so that no ``id`` is used twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor


class _Event(NamedTuple):
    read: list[int]
    made: list[int]


class History:
    """All steps so far."""

    def __init__(self) -> None:
        self._alive: list[Tensor] = []
        self._events: list[_Event] = []
        self._bases: dict[int, int] = {}
        self._data: set[int] = set()

    def mark_data(self, tensor: Tensor) -> None:
        """Record that a tensor holds data: an input, or numbers that training changes."""
        self._data.add(id(tensor))

    def mark_views(self, base: Tensor, views: Iterable[Tensor]) -> None:
        """Record that tensors are views into another."""
        for view in views:
            self._bases[id(view)] = id(base)

    def add(self, read: Iterable[Tensor], made: Iterable[Tensor], only_sizes: bool = False) -> int:
        """Record a step.

        Args:
            read: The tensors that the operation took.
            made: The tensors that it returned, overwritten ones included.
            only_sizes: Whether it took only sizes from ``read``, and no numbers.

        Returns:
            The step's number.
        """
        read, made = list(read), list(made)
        # Keep alive also the outputs that nobody reads, such as a norm's means: otherwise a later
        # tensor could have the same id and be mistaken for one of them.
        self._alive += read + made
        read_ids = [id(tensor) for tensor in read]
        made_ids = [id(tensor) for tensor in made]
        event = self._with_bases(read_ids, made_ids)
        self._events.append(event)
        if self._data.intersection(event.read) and not only_sizes:
            self._data.update(event.made)
        return len(self._events) - 1

    def depends_on_data(self, tensors: Iterable[Tensor]) -> bool:
        """Whether any of the tensors depends on inputs or parameters."""
        return any(id(tensor) in self._data for tensor in tensors)

    def used(self, outputs: Iterable[Tensor]) -> set[int]:
        """The step numbers that these tensors depend on."""
        live = {id(tensor) for tensor in outputs}
        steps: set[int] = set()
        for number in reversed(range(len(self._events))):
            event = self._events[number]
            if live.intersection(event.made):
                steps.add(number)
                live.update(event.read)
        return steps

    def _with_bases(self, read: Sequence[int], made: Sequence[int]) -> _Event:
        """A step's tensors; one that is written through a view is read and made as well."""
        event = _Event(list(read), list(made))
        for tensor in made:
            if tensor in read:
                bases = self._bases_of(tensor)
                event.read.extend(bases)
                event.made.extend(bases)
        return event

    def _bases_of(self, tensor: int) -> list[int]:
        found: list[int] = []
        while tensor in self._bases and self._bases[tensor] not in (*found, tensor):
            tensor = self._bases[tensor]
            found.append(tensor)
        return found
