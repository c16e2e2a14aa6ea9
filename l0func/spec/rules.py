"""Which slices of a tensor one vector of gates stands for."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Shape = tuple[int, ...]


class Rule(ABC):
    """A map from the gates of one array to the entries of one tensor.

    A subclass is a frozen dataclass. Every entry of the tensor has one gate or none; only
    ``blocks`` with ``sharers`` gives it several, of which any one keeps it.
    """

    @abstractmethod
    def _gates(self, shape: Shape) -> Shape: ...

    @abstractmethod
    def _spread(self, values: Tensor, shape: Shape) -> Tensor: ...

    def gates(self, shape: Shape, /) -> Shape:
        """The shape of the gate array for a tensor of this shape.

        Raises:
            ValueError: The rule does not fit the tensor.
        """
        return self._gates(shape)

    def spread(self, values: Tensor, shape: Shape, /) -> Tensor:
        """Gate values laid out along a tensor of this shape: its rank, broadcastable to it, 1
        where it has no gate.
        """
        return self._spread(values, shape)

    def index(self, shape: Shape) -> Tensor:
        """For every entry the number of its gate, or -1: int64, the tensor's rank, broadcastable
        to it.
        """
        gates = self.gates(shape)
        numbers = torch.arange(2, math.prod(gates) + 2, dtype=torch.float64).reshape(gates)
        return self.spread(numbers, shape).to(torch.int64) - 2

    def number(self, index: int, dim: int, shape: Shape) -> int:
        """The number of the one gate on a whole slice, the ``index``-th along a dimension, or -1:
        plain integers.
        """
        return -1

    def to_dict(self) -> dict[str, Any]:
        """The rule as JSON values, for :func:`from_dict`."""
        return {"rule": type(self).__name__, **vars(self)}

    def __repr__(self) -> str:
        settings = [
            f"{name}={value}"
            for name, value in vars(self).items()
            if value != getattr(type(self), name, "")
        ]
        return f"{type(self).__name__}({', '.join(settings)})"


def _dimension(dim: int, shape: Shape, rule: Rule) -> int:
    if not -len(shape) <= dim < len(shape):
        raise ValueError(
            f"{rule} names dimension {dim} of a tensor of shape {shape}; its dimensions are "
            f"{-len(shape)} to {len(shape) - 1}."
        )
    return dim % len(shape)


def _along(values: Tensor, dim: int, rank: int) -> Tensor:
    return values.reshape(*(1,) * dim, -1, *(1,) * (rank - dim - 1))


@dataclass(frozen=True, repr=False)
class element(Rule):
    """A gate for every entry."""

    def _gates(self, shape: Shape) -> Shape:
        return shape

    def _spread(self, values: Tensor, shape: Shape) -> Tensor:
        return values


@dataclass(frozen=True, repr=False)
class whole(Rule):
    """One gate for the whole tensor."""

    def _gates(self, shape: Shape) -> Shape:
        return (1,)

    def _spread(self, values: Tensor, shape: Shape) -> Tensor:
        return values.reshape((1,) * len(shape))


@dataclass(frozen=True, repr=False)
class axis(Rule):
    """A gate for every index of a dimension, or of the part ``[start, stop)`` of it.

    Args:
        dim: The dimension, counted from the end if negative.
        start: First gated index.
        stop: One past the last gated index; None is the end.
    """

    dim: int
    start: int = 0
    stop: int | None = None

    def _gates(self, shape: Shape) -> Shape:
        _, start, stop = _bounds(self, shape)
        return (stop - start,)

    def _spread(self, values: Tensor, shape: Shape) -> Tensor:
        dim, start, stop = _bounds(self, shape)
        return _along(_with_ones(values, start, shape[dim] - stop), dim, len(shape))

    def number(self, index: int, dim: int, shape: Shape) -> int:
        """See :meth:`Rule.number`."""
        own, start, stop = _bounds(self, shape)
        return index - start if dim == own and start <= index < stop else -1


@dataclass(frozen=True, repr=False, init=False)
class axes(Rule):
    """A gate for every combination of indices of several dimensions, such as ``axes(0, 1)`` for a
    filter's planes.
    """

    dims: tuple[int, ...]

    def __init__(self, *dims: int) -> None:
        object.__setattr__(self, "dims", dims)

    def _gates(self, shape: Shape) -> Shape:
        return tuple(n for n in self._sizes(shape) if n is not None)

    def _spread(self, values: Tensor, shape: Shape) -> Tensor:
        return values.reshape([1 if n is None else n for n in self._sizes(shape)])

    def _sizes(self, shape: Shape) -> list[int | None]:
        dims = {_dimension(dim, shape, self) for dim in self.dims}
        if len(dims) != len(self.dims) or not dims:
            raise ValueError(
                f"{self} must name different dimensions, at least one; the tensor's shape is "
                f"{shape}."
            )
        return [n if d in dims else None for d, n in enumerate(shape)]


@dataclass(frozen=True, repr=False)
class blocks(Rule):
    """A gate for every run of ``size`` indices of a dimension: an attention head, a channel after
    flattening.

    Args:
        dim: The dimension.
        size: Length of a run; it divides the dimension, or the part of it.
        start: First gated index.
        stop: One past the last gated index; None is the end.
        sharers: Consecutive gates that share a run, which stays while any of them is open (the key
            and value heads of grouped-query attention). More than 1 only where the gates own.
    """

    dim: int
    size: int
    start: int = 0
    stop: int | None = None
    sharers: int = 1

    def _gates(self, shape: Shape) -> Shape:
        _, start, stop = _bounds(self, shape)
        if self.size < 1 or (stop - start) % self.size:
            raise ValueError(
                f"{self} needs a size that divides the {stop - start} indices of a tensor of "
                f"shape {shape}; got {self.size}."
            )
        return ((stop - start) // self.size * self.sharers,)

    def _spread(self, values: Tensor, shape: Shape) -> Tensor:
        dim, start, stop = _bounds(self, shape)
        if self.sharers > 1:
            # Open with the probability that not all are closed; for values of 0 and 1, whether any
            # is open.
            values = 1 - (1 - values.reshape(-1, self.sharers)).prod(dim=-1)
        runs = values.unsqueeze(-1).expand(-1, self.size).reshape(-1)
        return _along(_with_ones(runs, start, shape[dim] - stop), dim, len(shape))

    def number(self, index: int, dim: int, shape: Shape) -> int:
        """See :meth:`Rule.number`."""
        own, start, stop = _bounds(self, shape)
        return (
            (index - start) // self.size
            if dim == own and start <= index < stop and self.sharers == 1
            else -1
        )


@dataclass(frozen=True, repr=False)
class tiles(Rule):
    """A gate for the indices j, j + H, j + 2H, ... of a dimension of ``n`` tiles of H: rows of
    packed or recurrent weights.

    Args:
        dim: The dimension.
        n: Number of tiles; it divides the dimension. An LSTM's rows are 4 tiles, a GRU's 3.
    """

    dim: int
    n: int

    def _gates(self, shape: Shape) -> Shape:
        size = shape[_dimension(self.dim, shape, self)]
        if self.n < 1 or size % self.n:
            raise ValueError(
                f"{self} needs a number of tiles that divides {size}, in a tensor of shape "
                f"{shape}."
            )
        return (size // self.n,)

    def _spread(self, values: Tensor, shape: Shape) -> Tensor:
        return _along(values.repeat(self.n), _dimension(self.dim, shape, self), len(shape))

    def number(self, index: int, dim: int, shape: Shape) -> int:
        """See :meth:`Rule.number`."""
        own = _dimension(self.dim, shape, self)
        return index % (shape[own] // self.n) if dim == own else -1


def _bounds(rule: axis | blocks, shape: Shape) -> tuple[int, int, int]:
    dim = _dimension(rule.dim, shape, rule)
    stop = shape[dim] if rule.stop is None else rule.stop
    if not 0 <= rule.start < stop <= shape[dim]:
        raise ValueError(
            f"{rule} must name a part [start, stop) of the {shape[dim]} indices of dimension "
            f"{dim}; "
            f"got [{rule.start}, {stop}) for a tensor of shape {shape}."
        )
    return dim, rule.start, stop


def _with_ones(values: Tensor, before: int, after: int) -> Tensor:
    return F.pad(values, (before, after), value=1.0) if before or after else values


KINDS: dict[str, type[Rule]] = {
    cls.__name__: cls for cls in (element, whole, axis, axes, blocks, tiles)
}


def rule_from_dict(record: Mapping[str, Any], /) -> Rule:
    """The rule that ``to_dict`` wrote.

    Raises:
        ValueError: The rule is unknown.
    """
    settings = dict(record)
    name = settings.pop("rule", None)
    if name not in KINDS:
        raise ValueError(f"A rule is one of {sorted(KINDS)}; the record says {name!r}.")
    return axes(*settings["dims"]) if name == "axes" else KINDS[name](**settings)
