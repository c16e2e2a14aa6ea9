"""What became of every parameter entry and every unit during one call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from l0func.tracing.units import NONE, Units, varies


class Weight(NamedTuple):
    """A parameter or buffer, or a part of one that was only moved about.

    For every dimension of it there is the coordinate of each element, an int64 tensor of the shape
    that the part has now.
    """

    path: str
    coordinates: tuple[Tensor, ...]


class Reader(NamedTuple):
    """A product by which a parameter reads units.

    Attributes:
        path: Of the parameter.
        dim: Its dimension along which the units lie.
        positions: The index along it of each column of ``values``.
        values: What it read, shape (rows, columns).
        bias: The path of the bias that is added to the product, if a parameter is.
        steady: Whether the values are constant, whatever the input and its size, for units that
            are made by zeros.
        border: Whether the parameter also reads zeros around the values, as a padded convolution
            does.
    """

    path: str
    dim: int
    positions: Tensor
    values: Tensor
    bias: str | None
    border: bool
    steady: bool


AbstractValue = Tensor | Weight
"""What is known of a tensor: the unit of every element as a label, int64; or that it is a
parameter, moved about.
"""


@dataclass
class UnitsAlongDim:
    """The units along one dimension of a parameter."""

    labels: Tensor
    reads: Tensor
    owns: Tensor


@dataclass
class Trace:
    """A record of one call; rules write it, and :func:`l0func.tracing.follow.follow` returns it.

    Attributes:
        shapes: Of every parameter and buffer.
        units: The units.
        slices: For ``(path, dim)`` the unit of every index, and whether the unit is read there or
            owns the slice.
        uses: How often each entry of a parameter is multiplied: a number, or a tensor of the
            parameter's shape.
        products: Multiply-adds between activations by the units of the two.
        normed: Labels of units that an RMSNorm runs over, which goes on without some of them if
            these are exactly zero.
        norms: The paths of its weights.
        readers: The products by which parameters read units, in order.
    """

    shapes: dict[str, tuple[int, ...]]
    units: Units = field(default_factory=Units)
    slices: dict[tuple[str, int], UnitsAlongDim] = field(
        default_factory=dict[tuple[str, int], UnitsAlongDim]
    )
    uses: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    products: Counter[tuple[int, int]] = field(default_factory=Counter[tuple[int, int]])
    normed: list[Tensor] = field(default_factory=list[Tensor])
    norms: set[str] = field(default_factory=set[str])
    readers: list[Reader] = field(default_factory=list[Reader])
    tainted: dict[str, str] = field(default_factory=dict[str, str])
    _atoms: dict[str, int] = field(default_factory=dict[str, int])
    _touched: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def own(self, weight: Weight, dim: int, labels: Tensor) -> None:
        """UnitsAlongDim along a dimension of a weight belong to these units."""
        self._bind(weight, dim, labels, reads=False)

    def read(self, weight: Weight, dim: int, labels: Tensor) -> None:
        """UnitsAlongDim along a dimension of a weight multiply what these units send on."""
        self._bind(weight, dim, labels, reads=True)

    def taint(self, path: str, reason: str) -> None:
        """No slice of this parameter can be removed."""
        self.tainted.setdefault(path, reason)

    def elements(self, weight: Weight) -> Tensor:
        """Labels for a weight that is used as a value, one unit for every entry."""
        shape = self.shapes[weight.path]
        if weight.path not in self._atoms:
            count = torch.Size(shape).numel()
            self._atoms[weight.path] = int(self.units.fresh(count)[0]) if count else 0
            self._touched[weight.path] = torch.zeros(shape, dtype=torch.bool)
        flat = _flat(weight.coordinates, shape)
        self._touched[weight.path].view(-1)[flat.reshape(-1)] = True
        return flat + self._atoms[weight.path]

    def count(self, weight: Weight, uses: int) -> None:
        """Every element of this weight is multiplied so many times."""
        shape = self.shapes[weight.path]
        size = torch.Size(shape).numel()
        known = self.uses.get(weight.path, torch.zeros((), dtype=torch.float64))
        if weight.coordinates[0].numel() == size:
            # Moved about, whole: every entry once.
            self.uses[weight.path] = known + uses
            return
        flat = _flat(weight.coordinates, shape)
        counts = known.expand(shape).clone()
        ones = torch.full((flat.numel(),), float(uses), dtype=torch.float64)
        self.uses[weight.path] = counts.view(-1).index_add_(0, flat.reshape(-1), ones).view(shape)

    def finish(self, used: set[int]) -> None:
        """Settle what was left open: entries used as values, and what must not be removed by the
        steps that are used.
        """
        self.units.step = -1
        for path, start in self._atoms.items():
            self._settle(path, start)
        for path, reason in self.tainted.items():
            for (at, _), slices in self.slices.items():
                if at == path:
                    self.units.fix(slices.labels, reason)
        self.units.settle(used)

    def _bind(self, weight: Weight, dim: int, labels: Tensor, reads: bool) -> None:
        if weight.coordinates[0].shape[dim] == 1:
            self.units.fix(labels, f"they are one unit, and {weight.path!r} cannot do without")
            return
        found = dimension_of(weight, dim)
        if found is None:
            self.units.fix(labels, f"{weight.path!r} is reshaped before it is used")
            self.taint(weight.path, f"{weight.path!r} is reshaped before it is used")
            return
        at, positions = found
        self._tie((weight.path, at), positions, labels, reads)

    def _tie(self, where: tuple[str, int], positions: Tensor, labels: Tensor, reads: bool) -> None:
        size = self.shapes[where[0]][where[1]]
        slices = self.slices.get(where)
        if slices is None:
            flags = torch.zeros(size, dtype=torch.bool)
            slices = self.slices[where] = UnitsAlongDim(
                torch.full((size,), NONE), flags, flags.clone()
            )
        self.units.tie(slices.labels[positions], labels)
        slices.labels[positions] = torch.where(labels >= 0, labels, slices.labels[positions])
        (slices.reads if reads else slices.owns)[positions] |= labels >= 0

    def _settle(self, path: str, start: int) -> None:
        """The dimension along which entries that were used as values belong to units."""
        shape = self.shapes[path]
        touched = self._touched[path]
        entries = torch.arange(touched.numel()).reshape(shape) + start
        roots = torch.where(touched, self.units.roots(entries), NONE)
        for dim in range(len(shape)):
            others = [d for d in range(len(shape)) if d != dim]
            highest = roots.amax(others) if others else roots
            unit = highest.reshape([n if d == dim else 1 for d, n in enumerate(shape)])
            if bool(((roots == unit) | (roots == NONE)).all()) and (
                shape[dim] > 1 or len(shape) == 1
            ):
                positions = (highest >= 0).nonzero().flatten()
                self._tie((path, dim), positions, highest[positions], reads=False)
                return
        self.units.fix(roots, f"entries of {path!r} belong to several of them")
        self.taint(path, f"{path!r} has no dimension along which its units lie")


def dimension_of(weight: Weight, dim: int) -> tuple[int, Tensor] | None:
    """The parameter's dimension that a dimension of the weight runs along, and the indices; None
    if there is no such one.
    """
    dim %= weight.coordinates[0].dim()
    running = [k for k, c in enumerate(weight.coordinates) if varies(c, dim)]
    if len(running) != 1:
        return None
    of = weight.coordinates[running[0]]
    if any(varies(of, d) for d in range(of.dim()) if d != dim):
        return None
    return running[0], of[tuple(slice(None) if d == dim else 0 for d in range(of.dim()))]


def _flat(coordinates: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
    flat = torch.zeros((), dtype=torch.int64)
    for coordinate, size in zip(coordinates, shape, strict=True):
        flat = flat * size + coordinate
    return flat


def whole_weight(path: str, shape: tuple[int, ...]) -> Weight:
    """A parameter as it is."""
    grids = [
        torch.arange(n).reshape([n if d == k else 1 for d in range(len(shape))])
        for k, n in enumerate(shape)
    ]
    return Weight(path, tuple(grid.expand(shape) for grid in grids))
