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
