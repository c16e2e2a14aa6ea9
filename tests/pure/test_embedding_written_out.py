"""Bags of embeddings written out against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import l0func as l0
from l0func import random
from l0func.pure.written_out.embedding import embedding_bag


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 2, -1])
def test_written_out_bags_equal_torchs(mode, padding):
    torch.manual_seed(0)
    tokens, weight = torch.randint(0, 6, (8, 3)), torch.randn(6, 4, requires_grad=True)
    tokens[0] = 2 if padding == 2 else 5
    ours = embedding_bag(tokens, weight, mode, None, padding)
    theirs = F.embedding_bag(tokens, weight, mode=mode, padding_idx=padding)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        *(torch.autograd.grad((y**2).sum(), weight)[0] for y in (ours, theirs))
    )


def test_written_out_bags_take_weights_of_their_samples():
    tokens, weight, factors = torch.randint(0, 6, (8, 3)), torch.randn(6, 4), torch.randn(8, 3)
    theirs = F.embedding_bag(tokens, weight, mode="sum", per_sample_weights=factors)
    torch.testing.assert_close(embedding_bag(tokens, weight, "sum", factors, None), theirs)


def test_bags_with_offsets_over_rows_are_refused_by_name():
    class Offsets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag = nn.EmbeddingBag(7, 4)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.bag(tokens.flatten(), torch.tensor([0, 2]))

    fn, params, buffers = l0.make_functional(Offsets())
    spec = l0.gate_spec(params)
    rows = l0.per_example(l0.gated(fn, spec))
    with pytest.raises(ValueError, match="takes bags of one size"):
        rows(
            params,
            l0.init_gates(random.key(0), spec),
            buffers,
            random.split(random.key(1), 5),
            torch.zeros(5, 4).long(),
        )
