"""Slices along several dimensions of a parameter that forward joined into one.

``einsum("bnd,hdk->bnhk", x, w)`` multiplies by a matrix with ``h * k`` columns. Only at the end of
a trace it is known whether units lie along ``h``, as heads do, or along ``k``.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from l0func.tracing.units import NONE, Units, largest, no_units, varies
from l0func.tracing.values import Weight


class JoinedSlices(NamedTuple):
    """Units along a dimension of a product that stands for several dimensions of a parameter.

    Attributes:
        path: The parameter's path.
        dims: Its dimensions.
        coordinates: For each of these dimensions, the index at each position in the product.
        labels: The unit at each position.
        reads: Whether the parameter reads the units there; otherwise it makes them.
        step: The step of the product.
        fallback: The number, among these dimensions, of the one that units lie along if they are
            not found to lie along any; None if there is none.
    """

    path: str
    dims: list[int]
    coordinates: list[Tensor]
    labels: Tensor
    reads: bool
    step: int | None
    fallback: int | None = None

    def along_one(self, units: Units, shape: tuple[int, ...]) -> tuple[int, Tensor] | None:
        """The only dimension that units lie along, at the end of a trace.

        Args:
            units: The units.
            shape: The parameter's shape.

        Returns:
            The dimension and each slice's unit, or NONE; None if there is no such dimension.
        """
        found = self._along_one(self._grid(units, shape))
        if found is None and self.fallback is not None:
            self._tie_along(self.fallback, units, self._grid(units, shape))
            found = self._along_one(self._grid(units, shape))
        return found

    def _grid(self, units: Units, shape: tuple[int, ...]) -> Tensor:
        grid = no_units(tuple(shape[dim] for dim in self.dims))
        grid[tuple(self.coordinates)] = units.roots(self.labels)
        return grid

    def _along_one(self, grid: Tensor) -> tuple[int, Tensor] | None:
        for number, dim in enumerate(self.dims):
            along = constant_elsewhere(grid, number)
            if along is not None:
                return dim, along
        return None

    def _tie_along(self, number: int, units: Units, grid: Tensor) -> None:
        """Make one unit of all elements at the same index along a dimension."""
        others = [d for d in range(grid.dim()) if d != number]
        units.tie(grid, largest(grid, others, keepdim=True) if others else grid)


def joined_slices(
    weight: Weight, dim: int, labels: Tensor, reads: bool, step: int | None
) -> JoinedSlices | None:
    """A weight's slices along a dimension that joins several of the parameter's; None if none do.

    Args:
        weight: The weight.
        dim: Its dimension.
        labels: The unit at each position along it.
        reads: Whether the weight reads the units.
        step: The step of the product.
    """
    rank = len(weight.shape)
    dim %= rank
    others = [d for d in range(rank) if d != dim]
    dims: list[int] = []
    coordinates: list[Tensor] = []
    for number, coordinate in enumerate(weight.coordinates):
        if not varies(coordinate, dim):
            continue
        if any(varies(coordinate, d) for d in others):
            return None
        for d in reversed(others):
            coordinate = coordinate.select(d, 0)
        dims.append(number)
        coordinates.append(coordinate)
    if len(dims) < 2:
        return None
    return JoinedSlices(weight.path, dims, coordinates, labels, reads, step)


def constant_elsewhere(roots: Tensor, dim: int) -> Tensor | None:
    """The roots along one dimension, if they vary along no other; entries with NONE fit any."""
    others = [d for d in range(roots.dim()) if d != dim]
    along = largest(roots, others, keepdim=True) if others else roots
    fits = (roots == along) | (roots == NONE)
    return along.flatten() if bool(fits.all()) else None
