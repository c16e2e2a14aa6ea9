"""Bags of embeddings, which vmap has no batching rule for."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    mode: str,
    per_sample_weights: Tensor | None,
    padding_idx: int | None,
) -> Tensor:
    """Sum, mean or maximum of the embeddings of each bag, as ``F.embedding_bag`` on bags of one
    size.

    Args:
        input: Indices, shape ``(N, bag)``.
        weight: Embeddings, shape ``(V, E)``.
        mode: ``"sum"``, ``"mean"`` or ``"max"``.
        per_sample_weights: Factors of the embeddings, shape ``(N, bag)``; with ``"sum"`` only.
        padding_idx: An index that does not count, or None.

    Returns:
        Shape ``(N, E)``; 0 for a bag of padding only.
    """
    padding = None if padding_idx is None else padding_idx % weight.shape[0]
    vectors = F.embedding(input, weight, padding)
    counts = torch.ones_like(input, dtype=torch.bool) if padding is None else input != padding
    counts = counts.unsqueeze(-1)
    if mode == "max":
        largest = torch.where(counts, vectors, float("-inf")).amax(dim=-2)
        return torch.where(counts.any(dim=-2), largest, 0.0)
    if per_sample_weights is not None:
        vectors = vectors * per_sample_weights.unsqueeze(-1)
    total = torch.where(counts, vectors, 0.0).sum(dim=-2)
    return total / counts.sum(dim=-2).clamp(min=1) if mode == "mean" else total
