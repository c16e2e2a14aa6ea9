"""Gauss-Legendre rules, and how many nodes an integral needs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from l0func.internal.untyped import untyped

SIZES = (8, 10, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


class Quadrature(NamedTuple):
    """Nodes in (0, 1) and weights that sum to 1."""

    nodes: tuple[float, ...]
    weights: tuple[float, ...]


@cache
def gauss_legendre(size: int, /) -> Quadrature:
    """The rule of ``size`` nodes on [0, 1], exact for polynomials of degree ``2 * size - 1``.

    Source: Golub & Welsch (1969), "Calculation of Gauss quadrature rules": the eigenvalues of the
    Jacobi matrix.
    """
    k = torch.arange(1, size, dtype=torch.float64)
    off_diagonal = k / (4.0 * k**2 - 1.0).sqrt()
    jacobi = torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1)
    nodes, vectors = untyped.linalg.eigh(jacobi)
    return Quadrature(tuple(((nodes + 1.0) / 2.0).tolist()), tuple((vectors[0] ** 2).tolist()))


def converged(evaluate: Callable[[int], Tensor], /, tolerance: float) -> int | None:
    """The smallest size whose results no larger one changes by more than ``tolerance``, or None if
    512 nodes do not do.
    """
    results = {size: evaluate(size) for size in SIZES[:2]}
    for size, larger, check in zip(SIZES, SIZES[1:], SIZES[2:], strict=False):
        results[check] = evaluate(check)
        if all(
            bool((results[size] - results[other]).abs().max() <= tolerance)
            for other in (larger, check)
        ):
            return size
    return None
