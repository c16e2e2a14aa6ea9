"""Abstract values: what the analysis knows of one tensor.

Dataflow analysis (abstract interpretation) runs a program on abstract values beside the real ones.
Here the abstract value of a tensor is one of two things:

- labels, an int64 tensor of the same shape: the unit of every element, or
- a :class:`Weight`: the tensor is a parameter or buffer whose entries were only moved about.

:class:`AbstractValues` maps every tensor of the call to its abstract value.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from l0func.tracing.units import varies


class Weight(NamedTuple):
    """A parameter or buffer, or a part of one, after views, transposes and other moves.

    Attributes:
        path: The path of the parameter or buffer.
        coordinates: For each dimension of the parameter the coordinate of every element, int64;
            each in the shape that the tensor has after the moves.
    """

    path: str
    coordinates: tuple[Tensor, ...]

    @property
    def shape(self) -> torch.Size:
        """The shape after the moves."""
        return self.coordinates[0].shape

    @property
    def size(self) -> int:
        """The number of elements after the moves."""
        return self.coordinates[0].numel()


AbstractValue = Tensor | Weight
"""Labels, one for every element; or a weight."""


class AbstractValues:
    """The abstract value of every tensor of one call.

    Tensors are found by identity. They are kept alive, so that no identity is used twice.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[Tensor, AbstractValue]] = {}
        self._steady: set[int] = set()

    def get(self, tensor: Tensor) -> AbstractValue | None:
        """The abstract value of a tensor; None if no step made it and it is no input."""
        known = self._known.get(id(tensor))
        return None if known is None else known[1]

    def set(self, tensor: Tensor, value: AbstractValue) -> None:
        """Give a tensor its abstract value."""
        self._known[id(tensor)] = (tensor, value)

    def is_steady(self, tensor: Tensor) -> bool:
        """Whether :mod:`l0func.tracing.steady` found the tensor steady."""
        return id(tensor) in self._steady

    def mark_steady(self, tensors: Iterable[Tensor]) -> None:
        """Record that these tensors are steady."""
        self._steady.update(id(tensor) for tensor in tensors)


def whole_weight(path: str, shape: tuple[int, ...]) -> Weight:
    """A parameter as it is, of one dimension or more."""
    axes = [torch.arange(n) for n in shape]
    return Weight(path, torch.meshgrid(*axes, indexing="ij"))


def flat_index(weight: Weight, shape: tuple[int, ...]) -> Tensor:
    """For every element its index in the flattened parameter of the given shape."""
    flat = torch.zeros((), dtype=torch.int64)
    for coordinate, size in zip(weight.coordinates, shape, strict=True):
        flat = flat * size + coordinate
    return flat


def dimension_of(weight: Weight, dim: int) -> tuple[int, Tensor] | None:
    """The parameter's dimension that one dimension of the weight runs along.

    Returns:
        That dimension and the index along it of each position, shape ``(weight.shape[dim],)``;
        None if the parameter was reshaped so that no single dimension fits.
    """
    rank = len(weight.shape)
    dim %= rank
    running = [k for k, coordinate in enumerate(weight.coordinates) if varies(coordinate, dim)]
    if len(running) != 1:
        return None
    coordinate = weight.coordinates[running[0]]
    others = [d for d in range(rank) if d != dim]
    if any(varies(coordinate, d) for d in others):
        return None
    for d in reversed(others):
        coordinate = coordinate.select(d, 0)
    return running[0], coordinate
