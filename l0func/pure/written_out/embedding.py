"""Bags of embeddings in plain operations, because vmap has no batching rule for torch's own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def bags_of_one_size(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Bags of equal size, with the arguments of ``F.embedding_bag``.

    Args:
        input: Indices, shape ``(N, bag)``.
        weight: Embeddings, shape ``(V, E)``.
        offsets: None; equal bags have no offsets.
        max_norm: None; ``Keyed`` refuses any other value.
        norm_type: Unused without ``max_norm``.
        scale_grad_by_freq: False.
        mode: ``"sum"``, ``"mean"`` or ``"max"``.
        sparse: False.
        per_sample_weights: Factors for the embeddings, shape ``(N, bag)``.
        include_last_offset: Unused without ``offsets``.
        padding_idx: An index that does not count, or None.

    Returns:
        Shape ``(N, E)``.

    Raises:
        ValueError: The bags come with offsets, or the gradients would be sparse or scaled.
    """
    if input.dim() != 2 or scale_grad_by_freq or sparse:
        raise ValueError(
            "An EmbeddingBag over rows takes bags of one size, shape (B, bag), without offsets, "
            "sparse gradients or gradients scaled by frequency; got indices of shape "
            f"{tuple(input.shape)} in a row."
        )
    _check_bags(input, weight, mode, per_sample_weights, padding_idx)
    return embedding_bag(input, weight, mode, per_sample_weights, padding_idx)


def _check_bags(
    input: Tensor,
    weight: Tensor,
    mode: str,
    per_sample_weights: Tensor | None,
    padding_idx: int | None,
) -> None:
    words = weight.shape[0]
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"torch function 'embedding_bag' sums, means or maxes; got {mode!r}.")
    if padding_idx is not None and not -words <= padding_idx < words:
        raise ValueError(
            f"torch function 'embedding_bag' takes a padding_idx among its {words} embeddings; "
            f"got {padding_idx}."
        )
    if per_sample_weights is None:
        return
    if mode != "sum" or per_sample_weights.shape != input.shape:
        raise ValueError(
            "torch function 'embedding_bag' takes per_sample_weights with mode='sum', one for "
            f"each of the {tuple(input.shape)} indices; got {tuple(per_sample_weights.shape)} and "
            f"mode={mode!r}."
        )


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    mode: str,
    per_sample_weights: Tensor | None,
    padding_idx: int | None,
) -> Tensor:
    """Sum, mean or maximum of the embeddings in each bag, for bags of one size.

    Args:
        input: Indices, shape ``(N, bag)``.
        weight: Embeddings, shape ``(V, E)``.
        mode: ``"sum"``, ``"mean"`` or ``"max"``.
        per_sample_weights: Factors for the embeddings, shape ``(N, bag)``; with ``"sum"`` only.
        padding_idx: An index that does not count, or None.

    Returns:
        Shape ``(N, E)``; 0 for a bag with padding only.
    """
    padding = None if padding_idx is None else padding_idx % weight.shape[0]
    vectors = F.embedding(input, weight, padding)
    counted = _counted_in_bags(input, padding)
    if mode == "max":
        largest = torch.where(counted, vectors, float("-inf")).amax(dim=-2)
        return torch.where(counted.any(dim=-2), largest, 0.0)
    if per_sample_weights is not None:
        vectors = vectors * per_sample_weights.unsqueeze(-1)
    total = torch.where(counted, vectors, 0.0).sum(dim=-2)
    if mode == "sum":
        return total
    return total / counted.sum(dim=-2).clamp(min=1)


def _counted_in_bags(input: Tensor, padding: int | None) -> Tensor:
    """Whether each index counts: bool, shape ``(N, bag, 1)``."""
    if padding is None:
        return torch.ones_like(input, dtype=torch.bool).unsqueeze(-1)
    return (input != padding).unsqueeze(-1)
