"""Weights that are mostly zeros, stored as what is left."""

from __future__ import annotations

import torch
from torch import Tensor

from l0func.internal import tree
from l0func.internal.tree import Tree
from l0func.internal.untyped import untyped


def to_sparse_csr(params: Tree, max_density: float = 1 / 3) -> dict[str, Tensor]:
    """Matrices with many zeros as torch's compressed sparse rows, for ``fn`` or a state_dict.

    ``F.linear`` takes such a weight. On two cores it was faster than the dense product for one row
    of input from a density of 10 % down, and for a batch of 128 only near 1 %;
    ``tests/bench/compact.py`` measures it where you are.

    Args:
        params: Pruned parameters, flat or nested.
        max_density: A matrix with a larger share of non-zeros stays dense: an index takes the room
            of two float32.

    Returns:
        A flat dict in which such 2-D parameters have the layout ``torch.sparse_csr``; the others
        are as they were.

    Raises:
        ValueError: ``max_density`` is not in [0, 1].

    Example:
        >>> to_sparse_csr({"w": torch.diag(torch.tensor([1.0, 2.0, 3.0]))})["w"].values()
        tensor([1., 2., 3.])
    """
    if not 0 <= max_density <= 1:
        raise ValueError(f"A density is a share in [0, 1]; got max_density={max_density}.")

    def stored(p: Tensor) -> Tensor:
        matrix = p.dim() == 2 and p.is_floating_point() and p.numel() > 0
        if not matrix or float((p != 0).double().mean()) > max_density:
            return p
        return _compressed(p.detach())

    return {path: stored(p) for path, p in tree.leaves(params).items()}


def _compressed(matrix: Tensor) -> Tensor:
    rows, columns = (matrix != 0).nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=matrix.shape[0])
    starts = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
    return untyped.sparse_csr_tensor(
        starts, columns, matrix[rows, columns], tuple(matrix.shape), check_invariants=False
    )
