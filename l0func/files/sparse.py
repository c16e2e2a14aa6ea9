"""Weights with many zeros, stored as their non-zero entries."""

from __future__ import annotations

import torch
from torch import Tensor

from l0func.internal import tree
from l0func.internal.stacked import check_not_mapped
from l0func.internal.tree import Tree
from l0func.internal.untyped import untyped
from l0func.internal.whole import check_whole


def to_sparse_csr(params: Tree, max_density: float = 1 / 3) -> dict[str, Tensor]:
    """Matrices with many zeros as torch's compressed sparse rows, for ``fn`` or a state_dict.

    ``F.linear`` takes such a weight. On two cores it was faster than the dense product for a
    single input up to a density of 10 %, and for a batch of 128 only near 1 %. Run
    ``tests/bench/compact.py`` to measure it on your machine.

    Args:
        params: Pruned parameters, flat or nested.
        max_density: A matrix with a larger share of non-zeros stays dense, since an index takes
            as much room as two float32.

    Returns:
        A flat dict. 2-D parameters of real floating-point numbers with many zeros have the layout
        ``torch.sparse_csr``; all others, such as those of integers or complex numbers, are
        unchanged.

    Raises:
        ValueError: ``max_density`` is not in [0, 1], or params are inside torch.vmap.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> l0.to_sparse_csr({"w": torch.diag(torch.tensor([1.0, 2.0, 3.0]))})["w"].values()
        tensor([1., 2., 3.])
    """
    check_whole("to_sparse_csr", params=params)
    if not 0 <= max_density <= 1:
        raise ValueError(f"A density is a share in [0, 1]; got max_density={max_density}.")

    tensors = tree.leaves(params)
    check_not_mapped("to_sparse_csr reads values", params=tensors)
    stored: dict[str, Tensor] = {}
    for path, p in tensors.items():
        stored[path] = _compressed(p.detach()) if _is_sparse(p, max_density) else p
    return stored


def _is_sparse(p: Tensor, max_density: float) -> bool:
    if p.layout != torch.strided or p.dim() != 2 or not p.is_floating_point() or p.numel() == 0:
        return False
    density = float((p != 0).double().mean())
    return density <= max_density


def _compressed(matrix: Tensor) -> Tensor:
    rows, columns = (matrix != 0).nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=matrix.shape[0])
    starts = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
    values = matrix[rows, columns]
    shape = tuple(matrix.shape)
    return untyped.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)
