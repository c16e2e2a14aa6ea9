"""Sparse storage: compressed rows compute what dense weights with zeros do."""

from __future__ import annotations

import pytest
import torch
from groups import random_gates
from torch import nn

import l0func as l0


def test_sparse_rows_compute_what_the_zeros_did():
    fn, params, buffers = l0.make_functional(
        nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 5))
    )
    spec = l0.gate_spec(params, {"*.weight": l0.element()})
    pruned = l0.prune(params, random_gates(spec, 0.1), spec)
    sparse = l0.to_sparse_csr(pruned)
    x = torch.randn(7, 40)
    torch.testing.assert_close(fn(sparse, buffers, x), fn(pruned, buffers, x))
    for path, p in pruned.items():
        assert sparse[path].layout == (torch.sparse_csr if p.dim() == 2 else torch.strided)
        assert torch.equal(sparse[path].to_dense() if p.dim() == 2 else sparse[path], p)
    assert sparse["0.weight"].values().numel() == int((pruned["0.weight"] != 0).sum())
    assert l0.to_sparse_csr(params)["0.weight"].layout == torch.strided
    with pytest.raises(ValueError, match=r"a share in \[0, 1\]; got max_density=2"):
        l0.to_sparse_csr(params, max_density=2)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_matrices_of_other_numbers_stay_as_they_are(dtype):
    matrix = torch.eye(8).to(dtype)
    assert l0.to_sparse_csr({"w": matrix})["w"] is matrix
    assert l0.to_sparse_csr({"w": torch.eye(8)})["w"].layout == torch.sparse_csr
