"""Weights that are mostly zeros, stored as what is left."""

from __future__ import annotations

import torch
from torch import Tensor

from l0func import tree
from l0func.transforms import untyped
from l0func.tree import Tree


def to_sparse_csr(params: Tree, max_density: float = 0.5) -> dict[str, Tensor]:
    """Matrices with many zeros as torch's compressed sparse rows, for ``fn`` or a state_dict.

    A sparse matrix saves memory from a density of about one half down; when its product is faster is another matter, which
    ``tests/bench/sparse.py`` measures.

    Args:
        params: Pruned parameters, flat or nested.
        max_density: A matrix with a larger share of non-zeros stays dense.

    Returns:
        A flat dict in which such 2-D parameters have the layout ``torch.sparse_csr``; the others are as they were.

    Raises:
        ValueError: ``max_density`` is not in [0, 1].
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
    return untyped.sparse_csr_tensor(starts, columns, matrix[rows, columns], tuple(matrix.shape), check_invariants=False)
