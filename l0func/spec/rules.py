"""Rules: maps from a gate vector to the entries of one tensor.

Users write them in ``gate_spec`` and ``group``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from l0func.spec.rule_settings import whole_settings

Shape = tuple[int, ...]


class Rule(ABC):
    """A map from one gate array to the entries of one tensor.

    A subclass is a frozen dataclass. Every entry of the tensor has one gate or none, with one
    exception: under ``blocks`` with ``sharers`` it has several, and any open one keeps it.
    """

    @abstractmethod
    def _gates(self, shape: Shape) -> Shape:
        """See :meth:`gates`."""

    @abstractmethod
    def _spread(self, values: Tensor, shape: Shape) -> Tensor:
        """See :meth:`spread`."""

    def gates(self, shape: Shape, /) -> Shape:
        """The gate array's shape for a tensor of this shape.

        Raises:
            ValueError: The rule does not fit the tensor.
        """
        return self._gates(shape)

    def spread(self, values: Tensor, shape: Shape, /) -> Tensor:
        """Spread gate values over a tensor: each entry gets the value of its gate.

        Args:
            values: One value for each gate, shape ``gates(shape)``.
            shape: The tensor's shape.

        Returns:
            A tensor of that rank, broadcastable to that shape; 1 at an entry without a gate.
        """
        return self._spread(values, shape)

    def index(self, shape: Shape) -> Tensor:
        """The number of each entry's gate, or -1 at an entry without one.

        Args:
            shape: The tensor's shape.

        Returns:
            An int64 tensor of that rank, broadcastable to that shape. Gates are numbered in
            row-major order.
        """
        gates = self.gates(shape)
        # An entry without a gate gets 1 from spread, so the numbers start at 2.
        last = math.prod(gates) + 2
        numbers = torch.arange(2, last, dtype=torch.float64, device="cpu").reshape(gates)
        return self.spread(numbers, shape).to(torch.int64) - 2

    def number(self, index: int, dim: int, shape: Shape) -> int:
        """The number of the single gate on a slice, in plain integers.

        Args:
            index: The slice's position along ``dim``.
            dim: The dimension, counted from the start.
            shape: The tensor's shape.

        Returns:
            The number that :meth:`index` gives to all entries of the slice, or -1 if they have
            several gates or none.
        """
        return -1

    def to_dict(self) -> dict[str, Any]:
        """The rule as JSON values, for :func:`rule_from_dict`."""
        return {"rule": type(self).__name__, **vars(self)}

    def __post_init__(self) -> None:
        for name, value in whole_settings(type(self).__name__, vars(self)).items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        kind = type(self)
        settings: list[str] = []
        for name, value in vars(self).items():
            default = getattr(kind, name, "")
            if value != default:
                settings.append(f"{name}={value}")
        return f"{kind.__name__}({', '.join(settings)})"


RuleOrRules: TypeAlias = Rule | Sequence[Rule]
"""One rule on a tensor, or several."""


def as_rules(path: str, slices: RuleOrRules, /) -> tuple[Rule, ...]:
    """The rules on one tensor, as a tuple.

    Raises:
        TypeError: A value is not a rule; the message names the path.
    """
    several = isinstance(slices, list | tuple)
    listed: tuple[object, ...] = tuple(slices) if several else (slices,)
    for rule in listed:
        if isinstance(rule, type) and issubclass(rule, Rule):
            raise TypeError(
                f"{path!r} has the class {rule.__name__}; call it: element(), axis(0)."
            )
        if not isinstance(rule, Rule):
            raise TypeError(
                "A rule is element(), axis(...), axes(...), blocks(...), tiles(...), whole(), a "
                f"list of these, or None; {path!r} has {rule!r}. Groups go to the groups argument."
            )
    return cast("tuple[Rule, ...]", listed)


def has_sharers(rule: Rule, /) -> bool:
    """Whether several gates share each run of indices: true for ``blocks`` with sharers only."""
    return isinstance(rule, blocks) and rule.sharers > 1


def _dimension(dim: int, shape: Shape, rule: Rule) -> int:
    """A dimension counted from the start, if the shape has it."""
    rank = len(shape)
    if rank == 0:
        raise ValueError(
            f"{rule} names dimension {dim}, and the tensor is one number without dimensions; its "
            "rule is whole() or element()."
        )
    if not -rank <= dim < rank:
        raise ValueError(
            f"{rule} names dimension {dim} of a tensor of shape {shape}; its dimensions are "
            f"{-rank} to {rank - 1}."
        )
    return dim % rank


def _along(values: Tensor, dim: int, rank: int) -> Tensor:
    """A vector reshaped to vary along one dimension at a given rank."""
    shape = [1] * rank
    shape[dim] = -1
    return values.reshape(shape)


@dataclass(frozen=True, repr=False)
class element(Rule):
    """A gate for every entry.

    Example:
        >>> import l0func as l0
        >>> l0.element().gates((2, 3))  # of a tensor of shape (2, 3): a gate for each entry
        (2, 3)
    """

    def _gates(self, shape: Shape) -> Shape:
        return shape

    def _spread(self, values: Tensor, shape: Shape) -> Tensor:
        return values


@dataclass(frozen=True, repr=False)
class whole(Rule):
    """One gate for the whole tensor.

    Example:
        >>> import l0func as l0
        >>> l0.whole().gates((2, 3))  # one gate for a tensor of shape (2, 3)
        (1,)
    """

    def _gates(self, shape: Shape) -> Shape:
        return (1,)

    def _spread(self, values: Tensor, shape: Shape) -> Tensor:
        return values.reshape((1,) * len(shape))


@dataclass(frozen=True, repr=False)
class axis(Rule):
    """A gate for every index along a dimension, or along its part ``[start, stop)``.

    Args:
        dim: The dimension, counted from the end if negative.
        start: First gated index.
        stop: One past the last gated index; None is the end.

    Example:
        >>> import l0func as l0
        >>> l0.axis(1).gates((2, 3))  # a gate for each of 3 columns
        (3,)
    """

    dim: int
    start: int = 0
    stop: int | None = None

    def _gates(self, shape: Shape) -> Shape:
        _, start, stop = _bounds(self, shape)
        return (stop - start,)

    def _spread(self, values: Tensor, shape: Shape) -> Tensor:
        dim, start, stop = _bounds(self, shape)
        padded = _with_ones(values, start, shape[dim] - stop)
        return _along(padded, dim, len(shape))

    def number(self, index: int, dim: int, shape: Shape) -> int:
        """The number of the single gate on a slice, or -1."""
        own, start, stop = _bounds(self, shape)
        inside = dim == own and start <= index < stop
        return index - start if inside else -1


@dataclass(frozen=True, repr=False, init=False)
class axes(Rule):
    """A gate for every index combination along several dimensions.

    ``axes(0, 1)`` has a gate for every plane of a convolution's filters.

    Example:
        >>> import l0func as l0
        >>> l0.axes(0, 1).gates((16, 8, 3, 3))  # a gate for each kernel of 3×3
        (16, 8)
    """

    dims: tuple[int, ...]

    def __init__(self, *dims: int) -> None:
        object.__setattr__(self, "dims", dims)
        self.__post_init__()

    def _gates(self, shape: Shape) -> Shape:
        gated = self._dimensions(shape)
        return tuple(n for dim, n in enumerate(shape) if dim in gated)

    def _spread(self, values: Tensor, shape: Shape) -> Tensor:
        gated = self._dimensions(shape)
        sizes = [n if dim in gated else 1 for dim, n in enumerate(shape)]
        return values.reshape(sizes)

    def _dimensions(self, shape: Shape) -> set[int]:
        dims = {_dimension(dim, shape, self) for dim in self.dims}
        if len(dims) != len(self.dims) or not dims:
            raise ValueError(
                f"{self} must name different dimensions, at least one; the tensor's shape is "
                f"{shape}."
            )
        return dims


@dataclass(frozen=True, repr=False)
class blocks(Rule):
    """A gate for every run of ``size`` indices along a dimension.

    A run is, for example, an attention head, or a channel after flattening.

    Args:
        dim: The dimension.
        size: Indices in a run; it divides the dimension, or its part ``[start, stop)``.
        start: First gated index.
        stop: One past the last gated index; None is the end.
        sharers: Number of consecutive gates that share a run, such as the key and value heads of
            grouped-query attention. The run stays while one of them is open. Only slices that
            gates own may have more than 1.

    Example:
        >>> import l0func as l0
        >>> l0.blocks(1, 2).gates((4, 6))  # a gate for each 2 columns
        (3,)
    """

    dim: int
    size: int
    start: int = 0
    stop: int | None = None
    sharers: int = 1

    def _gates(self, shape: Shape) -> Shape:
        _, start, stop = _bounds(self, shape)
        gated = stop - start
        if self.size < 1 or gated % self.size:
            raise ValueError(
                f"{self} needs a size that divides the {gated} indices of a tensor of shape "
                f"{shape}; got {self.size}."
            )
        if self.sharers < 1:
            raise ValueError(
                f"{self} needs at least 1 gate for a run; got sharers={self.sharers}."
            )
        return (gated // self.size * self.sharers,)

    def _spread(self, values: Tensor, shape: Shape) -> Tensor:
        dim, start, stop = _bounds(self, shape)
        if self.sharers > 1:
            # Open with the probability that not all are closed; for values of 0 and 1, whether any
            # is open.
            closed = 1 - values.reshape(-1, self.sharers)
            values = 1 - closed.prod(dim=-1)
        runs = values.unsqueeze(-1).expand(-1, self.size)
        padded = _with_ones(runs.reshape(-1), start, shape[dim] - stop)
        return _along(padded, dim, len(shape))

    def number(self, index: int, dim: int, shape: Shape) -> int:
        """The number of the single gate on a slice, or -1."""
        own, start, stop = _bounds(self, shape)
        inside = dim == own and start <= index < stop
        return (index - start) // self.size if inside and self.sharers == 1 else -1


@dataclass(frozen=True, repr=False)
class tiles(Rule):
    """A gate for the indices j, j + H, j + 2H, ... along a dimension with ``n`` tiles of length H.

    In packed and recurrent weights these indices belong to one unit.

    Args:
        dim: The dimension.
        n: Number of tiles; it divides the dimension. An LSTM's rows are 4 tiles, a GRU's 3.

    Example:
        >>> import l0func as l0
        >>> l0.tiles(0, 4).gates((12, 3))  # rows 0, 3, 6 and 9 share the first gate
        (3,)
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
        dim = _dimension(self.dim, shape, self)
        return _along(values.repeat(self.n), dim, len(shape))

    def number(self, index: int, dim: int, shape: Shape) -> int:
        """The number of the single gate on a slice, or -1."""
        own = _dimension(self.dim, shape, self)
        height = shape[own] // self.n
        return index % height if dim == own else -1


def _bounds(rule: axis | blocks, shape: Shape) -> tuple[int, int, int]:
    """The rule's dimension, counted from the start, and its range ``[start, stop)``."""
    dim = _dimension(rule.dim, shape, rule)
    length = shape[dim]
    stop = length if rule.stop is None else rule.stop
    if not 0 <= rule.start < stop <= length:
        raise ValueError(
            f"{rule} must name a part [start, stop) of the {length} indices of dimension {dim}; "
            f"got [{rule.start}, {stop}) for a tensor of shape {shape}."
        )
    return dim, rule.start, stop


def _with_ones(values: Tensor, before: int, after: int) -> Tensor:
    """A vector with ones before and after it: the indices without gates."""
    return F.pad(values, (before, after), value=1.0) if before or after else values
