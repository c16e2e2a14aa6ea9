"""Least squares by normal equations: the change in a linear map that explains a residual best.

Rows come in blocks, so that only one block of inputs is in memory at a time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from l0func.internal.untyped import untyped


class Change(NamedTuple):
    """The change in a linear map: in its matrix, and in its constant term."""

    matrix: Tensor
    constant: Tensor


class NormalEquations:
    r"""The sums behind :math:`\min_{D, c} \sum_n |r_n - D x_n - c|^2`.

    Args:
        columns: The size of :math:`x`.
        outputs: The size of :math:`r`.
        device: Where the sums are.
        constant: Whether there is a constant term; else :math:`c = 0`.
    """

    def __init__(self, columns: int, outputs: int, device: torch.device, constant: bool) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self._products, self._moments = zeros(columns, columns), zeros(columns, outputs)
        self._inputs, self._residuals = zeros(columns), zeros(outputs)
        self._rows, self._constant = 0, constant

    def add(self, x: Tensor, residual: Tensor) -> None:
        """Add rows: inputs of shape (rows, columns), and residuals, (rows, outputs); float64."""
        self._products += x.mT @ x
        self._moments += x.mT @ residual
        self._inputs += x.sum(0)
        self._residuals += residual.sum(0)
        self._rows += len(x)

    def finite(self) -> bool:
        """Whether all sums are finite."""
        return bool(self._products.isfinite().all() and self._moments.isfinite().all())

    def solve(self, columns: Tensor, outputs: Tensor, ridge: float) -> Change:
        r"""The best change for some outputs, in some columns only.

        .. math:: (C + \lambda\, \overline{x^2}\, I)\, D^T = M

        with the products :math:`C` and the moments :math:`M` for one row, around the means if
        there is a constant term. A singular system gets a larger :math:`\lambda`, the first one
        with which it has digits left.

        Args:
            columns: Indices of the columns that may change.
            outputs: Indices of the outputs.
            ridge: :math:`\lambda`.
        """
        rows = max(self._rows, 1)
        products = self._products[columns][:, columns] / rows
        moments = self._moments[columns][:, outputs] / rows
        scale = products.diagonal().mean()
        x, r = self._inputs[columns] / rows, self._residuals[outputs] / rows
        if not self._constant:
            x, r = torch.zeros_like(x), torch.zeros_like(r)
        matrix = torch.zeros_like(moments)
        if len(columns) and bool(scale > 0):
            matrix = _solved(products - x.outer(x), moments - x.outer(r), scale, ridge)
        return Change(matrix.mT, r - x @ matrix)


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
