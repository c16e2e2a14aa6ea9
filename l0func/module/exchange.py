"""Values with the modules and tensors of one tree in place of another tree's."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from types import MethodType
from typing import Any, cast

from torch import Tensor, nn

from l0func.internal import tree
from l0func.internal.context import compiling

TABLES = ("_parameters", "_buffers")


class Exchange:
    """A function from values of one module tree to the same values of another tree.

    Builtin containers come out as new ones.

    Args:
        ours: The modules of the one tree.
        theirs: Those of the other, in the same order.
        tensors: Further tensors to put in, by the ``id`` of those that they replace.
    """

    def __init__(
        self,
        ours: Sequence[nn.Module],
        theirs: Sequence[nn.Module],
        tensors: Mapping[int, Tensor] | None = None,
    ) -> None:
        self.further: Mapping[int, Tensor] = tensors or {}
        self.tensors: dict[int, Tensor] = dict(self.further)
        self.pairs: list[tuple[Tensor, Tensor]] = []
        self.modules: dict[int, nn.Module] = {}
        for our, their in zip(ours, theirs, strict=True):
            self.modules[id(our)] = their
            self.pairs.extend(_counterparts(our, their))
        for tensor, other in self.pairs:
            self.tensors[id(tensor)] = other

    def __call__(self, value: Any) -> Any:
        """The other tree's value for a value."""
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, nn.Module):
            return self.modules.get(id(value), value)
        if isinstance(value, MethodType):
            return self._method(value)
        if isinstance(value, weakref.ref):
            return self._reference(cast("Any", value))
        if type(value) is set:
            return set(map(self, cast("set[Any]", value)))
        level = _level_of(value)
        if level is None:
            return value
        return level.unflatten([self(child) for child in level.children])

    def _tensor(self, tensor: Tensor) -> Tensor:
        if not compiling():
            return self.tensors.get(id(tensor), tensor)
        # For the id of a tensor from outside, a compiler compiles again at every call.
        for ours, theirs in self.pairs:
            if tensor is ours:
                return theirs
        return self.further.get(id(tensor), tensor) if self.further else tensor

    def _method(self, method: MethodType) -> Any:
        owner = self.modules.get(id(method.__self__))
        return method if owner is None else MethodType(method.__func__, owner)

    def _reference(self, reference: Any) -> Any:
        referent = reference()
        other = self(referent)
        return reference if other is referent else weakref.ref(other)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in a value, through all containers."""
    if isinstance(value, Tensor):
        yield value
        return
    level = _level_of(value)
    for child in [] if level is None else level.children:
        yield from tensors_in(child)


def _level_of(value: Any) -> tree.Level | None:
    # A compiler does not follow optree, so it sees builtin containers alone.
    if compiling() and type(value) not in (dict, OrderedDict, list, tuple):
        return None
    return tree.level_of(value)


def _counterparts(our: nn.Module, their: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    for table in TABLES:
        held: dict[str, Any] = vars(their)[table]
        for name, tensor in vars(our)[table].items():
            if tensor is not None and held.get(name) is not None:
                yield tensor, held[name]
