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
        self.products += x.mT @ x
        self.moments += x.mT @ residual
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

    def solve(self, ridge: float) -> Change:
        r"""The best change.

        .. math:: (C + \lambda\, \overline{x^2}\, I)\, D^T = M

        with the products :math:`C` and the moments :math:`M` for one row, around the means if
        there is a constant. A singular system gets a larger :math:`\lambda`, the first one with
        which it has digits left.

        Args:
            ridge: :math:`\lambda`.
        """
        rows = max(self.rows, 1)
        products, moments = self.products / rows, self.moments / rows
        x, r = self.inputs / rows, self.residuals / rows
        if not self.constant:
            x, r = torch.zeros_like(x), torch.zeros_like(r)
        scale = products.diagonal().sum() / max(len(products), 1)
        matrix = torch.zeros_like(moments)
        if bool(scale > 0):
            matrix = _solved(products - x.outer(x), moments - x.outer(r), scale, ridge)
        return Change(matrix.mT, r - x @ matrix)

    def gain(self, change: Change) -> float:
        """How much lower a change makes the sum of squares on these rows."""
        matrix, constant = change
        explained = 2 * (self.moments * matrix.mT).sum() + 2 * constant @ self.residuals
        curved = ((matrix @ self.products) * matrix).sum() + self.rows * constant @ constant
        return float(explained - curved - 2 * constant @ (matrix @ self.inputs))


def _solved(products: Tensor, moments: Tensor, scale: Tensor, ridge: float) -> Tensor:
    unit = torch.eye(len(products), dtype=products.dtype, device=products.device)
    while True:
        factor = _factor(products + scale * ridge * unit)
        # A pivot below the rounding of the sums is noise.
        if bool(factor.diagonal().square().amin() > _NOISE * scale):
            return torch.cholesky_solve(moments, factor)
        ridge = max(10 * ridge, _NOISE)


def _factor(matrix: Tensor) -> Tensor:
    """A matrix's Cholesky factor; zeros if it has none."""
    factor: Tensor
    failed: Tensor
    factor, failed = untyped.linalg.cholesky_ex(matrix)
    return torch.where(failed == 0, factor, 0.0)


_NOISE = 1e-12
