"""Gauss-Legendre quadratures, and the size that an integral needs."""

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
    """The quadrature with ``size`` nodes on [0, 1], exact up to degree ``2 * size - 1``.

    Source: Golub & Welsch (1969), "Calculation of Gauss quadrature rules": the eigenvalues of the
    Jacobi matrix.
    """
    k = torch.arange(1, size, dtype=torch.float64, device="cpu")
    off_diagonal = k / (4.0 * k**2 - 1.0).sqrt()
    jacobi = torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1)
    nodes, vectors = untyped.linalg.eigh(jacobi)
    on_unit_interval = (nodes + 1.0) / 2.0
    weights = vectors[0] ** 2
    return Quadrature(tuple(on_unit_interval.tolist()), tuple(weights.tolist()))


def converged(evaluate: Callable[[int], Tensor], /, tolerance: float) -> int | None:
    """The smallest size that the next two sizes confirm.

    Args:
        evaluate: A function from a size to the integrals.
        tolerance: The largest difference that counts as confirmed.

    Returns:
        The size, or None if quadratures with up to 512 nodes confirm no size.
    """
    results = {size: evaluate(size) for size in SIZES[:2]}
    for size, larger, largest in zip(SIZES, SIZES[1:], SIZES[2:], strict=False):
        results[largest] = evaluate(largest)
        errors = [_distance(results[size], results[other]) for other in (larger, largest)]
        # Not the maximum of the errors, which may pass over a NaN.
        if all(error <= tolerance for error in errors):
            return size
    return None


def _distance(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()
