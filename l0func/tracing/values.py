"""Abstract values: the analysis's knowledge about each tensor.

Dataflow analysis runs a program on abstract values beside the real ones. Here a tensor's abstract
value is one of two things:

- labels: an int64 tensor in the same shape, with the unit of each element; or
- a :class:`Weight`: the tensor is a parameter or buffer, and forward only moved its entries about.

:class:`AbstractValues` maps every tensor to its abstract value.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from l0func.tracing.units import varies
from l0func.tracing.written_norms import Powers, WrittenNorm


class Weight(NamedTuple):
    """A parameter or buffer, or some of its entries, after views and other moves.

    Attributes:
        path: The parameter's or buffer's path.
        coordinates: One int64 tensor for each dimension of the parameter, in the shape after the
            moves: each element's coordinate along that dimension.
    """

    path: str
    coordinates: tuple[Tensor, ...]

    @property
    def shape(self) -> torch.Size:
        """The shape after the moves."""
        return self.coordinates[0].shape

    @property
    def size(self) -> int:
        """How many elements there are after the moves."""
        return self.coordinates[0].numel()


AbstractValue = Tensor | Weight
"""Labels, one for every element; or a weight."""


class Statistic(NamedTuple):
    """The state of a tensor that holds the statistic of a norm."""

    norm: WrittenNorm
    powers: Powers


class NormOutput(NamedTuple):
    """The state of a tensor that the statistic of a norm has scaled."""

    norm: WrittenNorm
    powers: Powers


class Affine(NamedTuple):
    """The state of a tensor ``factor * weight + offset``; without an offset, another function."""

    factor: float
    offset: float | None


NormState = Statistic | NormOutput | Affine
"""What :mod:`l0func.tracing.norm_states` knows about a tensor."""


class AbstractValues:
    """The abstract value of every tensor in a forward pass.

    Tensors are found by identity. They are kept alive, here and in the trace's
    :class:`~l0func.tracing.history.History`, so that no identity is used twice.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[Tensor, AbstractValue]] = {}
        self._steady: set[int] = set()
        self._norm_states: dict[int, NormState] = {}
        self._repeats: dict[int, Collection[int]] = {}

    def get(self, tensor: Tensor) -> AbstractValue | None:
        """A tensor's abstract value; None if it was not set."""
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

    def repeats(self, tensor: Tensor) -> Collection[int]:
        """The dimensions along which a constant of forward's own size repeats inputs."""
        return self._repeats.get(id(tensor), ())

    def set_repeats(self, tensor: Tensor, dims: Collection[int]) -> None:
        """Record the dimensions along which a tensor repeats inputs."""
        self._repeats[id(tensor)] = dims

    def norm_state(self, tensor: Tensor) -> NormState | None:
        """The tensor's part in a norm that forward writes out; None if it has none."""
        return self._norm_states.get(id(tensor))

    def set_norm_state(self, tensor: Tensor, state: NormState | None) -> None:
        """Give a tensor its part in a norm."""
        if state is None:
            self._norm_states.pop(id(tensor), None)
        else:
            self._norm_states[id(tensor)] = state


def whole_weight(path: str, shape: tuple[int, ...]) -> Weight:
    """A parameter as it is, with one dimension or more."""
    axes = [torch.arange(n, device="cpu") for n in shape]
    return Weight(path, torch.meshgrid(*axes, indexing="ij"))


def flat_index(weight: Weight, shape: tuple[int, ...]) -> Tensor:
    """Each element's index in the flattened parameter, given the parameter's shape."""
    flat = torch.zeros((), dtype=torch.int64, device="cpu")
    for coordinate, size in zip(weight.coordinates, shape, strict=True):
        flat = flat * size + coordinate
    return flat


def dimension_of(weight: Weight, dim: int) -> tuple[int, Tensor] | None:
    """The parameter's dimension that one dimension of the weight runs along.

    Returns:
        That dimension, and for each position in the weight its index along it, shape
        ``(weight.shape[dim],)``. None if reshaping left no single dimension that fits.
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
