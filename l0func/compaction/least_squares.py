"""Least squares by normal equations: the change in a linear map that explains a residual best.

Rows come in blocks, so that only one block of inputs is in memory at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from l0func.internal.untyped import untyped


class Change(NamedTuple):
    """The change in a linear map: in its matrix, (outputs, columns), and in its constant."""

    matrix: Tensor
    constant: Tensor


@dataclass
class NormalEquations:
    r"""The sums behind :math:`\min_{D, c} \sum_n |r_n - D x_n - c|^2`, in float64.

    Attributes:
        products: :math:`\sum_n x_n x_n^T`, shape (columns, columns).
        moments: :math:`\sum_n x_n r_n^T`, shape (columns, outputs).
        inputs: :math:`\sum_n x_n`, shape (columns,).
        residuals: :math:`\sum_n r_n`, shape (outputs,).
        rows: The number of rows.
        constant: Whether there is a constant; else :math:`c = 0`.
    """

    products: Tensor
    moments: Tensor
    inputs: Tensor
    residuals: Tensor
    rows: int
    constant: bool

    @classmethod
    def empty(
        cls, columns: int, outputs: int, device: torch.device, constant: bool
    ) -> NormalEquations:
        """The sums over no rows."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        square, oblong = zeros(columns, columns), zeros(columns, outputs)
        return cls(square, oblong, zeros(columns), zeros(outputs), 0, constant)

    def add(self, x: Tensor, residual: Tensor) -> None:
        """Add rows: inputs of shape (rows, columns), and residuals, (rows, outputs); float64."""
        self.products.addmm_(x.mT, x)
        self.moments.addmm_(x.mT, residual)
        self.inputs += x.sum(0)
        self.residuals += residual.sum(0)
        self.rows += len(x)

    def joined(self, other: NormalEquations) -> NormalEquations:
        """The sums over the rows of both."""
        return NormalEquations(
            self.products + other.products,
            self.moments + other.moments,
            self.inputs + other.inputs,
            self.residuals + other.residuals,
            self.rows + other.rows,
            self.constant,
        )

    def part(self, columns: Tensor, outputs: Tensor) -> NormalEquations:
        """The sums for some columns and outputs, given by their indices."""
        return NormalEquations(
            self.products[columns][:, columns],
            self.moments[columns][:, outputs],
            self.inputs[columns],
            self.residuals[outputs],
            self.rows,
            self.constant,
        )

    def finite(self) -> bool:
        """Whether all sums are finite."""
        return bool(self.products.isfinite().all() and self.moments.isfinite().all())

    def system(self) -> System:
        r"""The linear system for the best change.

        Its products :math:`C` and moments :math:`M` are those for one row, around the means if
        there is a constant.
        """
        rows = max(self.rows, 1)
        products, moments = self.products / rows, self.moments / rows
        x, r = self.inputs / rows, self.residuals / rows
        if not self.constant:
            x, r = torch.zeros_like(x), torch.zeros_like(r)
        scale = products.diagonal().sum() / max(len(products), 1)
        return System(products.sub_(x.outer(x)), moments.sub_(x.outer(r)), scale, x, r)

    def gain(self, change: Change) -> float:
        """How much lower a change makes the sum of squares on these rows."""
        matrix, constant = change
        explained = 2 * (self.moments * matrix.mT).sum() + 2 * constant @ self.residuals
        curved = ((matrix @ self.products) * matrix).sum() + self.rows * constant @ constant
        return float(explained - curved - 2 * constant @ (matrix @ self.inputs))


class System(NamedTuple):
    """The system of :class:`NormalEquations`, for any ridge.

    Attributes:
        products: Shape (columns, columns).
        moments: Shape (columns, outputs).
        scale: The mean square of the inputs, not around the means.
        inputs: The means of the inputs, shape (columns,); zeros if there is no constant.
        residuals: The means of the residuals, shape (outputs,); zeros if there is no constant.
    """

    products: Tensor
    moments: Tensor
    scale: Tensor
    inputs: Tensor
    residuals: Tensor

    def solve(self, ridge: float) -> Change:
        r"""The best change.

        .. math:: (C + \lambda\, \overline{x^2}\, I)\, D^T = M

        A singular system gets a larger :math:`\lambda`, the first one with which it has digits
        left.

        Args:
            ridge: :math:`\lambda`.
        """
        matrix = torch.zeros_like(self.moments)
        if bool(self.scale > 0):
            matrix = self._solved(ridge)
        return Change(matrix.mT, self.residuals - self.inputs @ matrix)

    def _solved(self, ridge: float) -> Tensor:
        while True:
            damped = self.products.clone()
            damped.diagonal().add_(self.scale * ridge)
            factor, failed = _factor(damped)
            # A pivot below the rounding of the sums is noise.
            has_digits = factor.diagonal().square().amin() > _NOISE * self.scale
            if bool(has_digits & (failed == 0)):
                return torch.cholesky_solve(self.moments, factor)
            ridge = max(10 * ridge, _NOISE)


def _factor(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix's Cholesky factor, and a number that is not 0 if it has none."""
    return untyped.linalg.cholesky_ex(matrix)


_NOISE = 1e-12
