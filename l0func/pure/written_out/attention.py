"""Scaled dot-product attention in plain operations.

vmap, jvp and double backward cannot follow torch's fused functions, and dropout in them cannot
draw from a key.
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor

from l0func.pure.written_out.dropout import Dropout


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    dropout: Dropout,
) -> Tensor:
    r"""Scaled dot-product attention, :math:`\mathrm{softmax}(s\, QK^\top + M)\, V`.

    Source: Vaswani et al. (2017), arXiv:1706.03762, Eq. 1.

    Args:
        query: Shape ``(*batch, L, E)``.
        key: Shape ``(*batch, S, E)``. With ``enable_gqa``, its size along dimension -3 (heads)
            divides the query's.
        value: Shape ``(*batch, S, V)``.
        attn_mask: Broadcastable to ``(*batch, L, S)``: bool, True where attention is allowed; or
            added to the scores.
        dropout_p: Probability that an attention weight is dropped.
        is_causal: Whether position i attends to positions up to i only.
        scale: :math:`s`; None is :math:`E^{-1/2}`.
        enable_gqa: Whether query heads share the heads in key and value.
        dropout: Applies dropout; called with p > 0 only.

    Returns:
        Shape ``(*batch, L, V)``; 0 for a query that may attend to nothing.
    """
    if enable_gqa:
        heads = query.shape[-3]
        key = _repeated_heads(key, heads)
        value = _repeated_heads(value, heads)
    if scale is None:
        scale = 1.0 / sqrt(query.shape[-1])
    scores = query @ key.transpose(-2, -1) * scale
    if attn_mask is not None:
        blocked = ~attn_mask if attn_mask.dtype == torch.bool else attn_mask
        scores = scores + additive(blocked, scores.dtype)
    if is_causal:
        everywhere = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
        later = everywhere.triu(1)
        scores = scores + additive(later, scores.dtype)
    is_masked = attn_mask is not None or is_causal
    weights = masked_softmax(scores) if is_masked else scores.softmax(dim=-1)
    if dropout_p > 0.0:
        weights = dropout(weights, dropout_p)
    return weights @ value


def _repeated_heads(x: Tensor, heads: int) -> Tensor:
    return x.repeat_interleave(heads // x.shape[-3], dim=-3)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers to add to the scores: -inf where a bool mask is True; any other mask itself."""
    if mask.dtype == torch.bool:
        mask = torch.where(mask, float("-inf"), 0.0)
    return mask.to(dtype)


def masked_softmax(scores: Tensor) -> Tensor:
    """Attention weights along the last dimension; 0 for a query with no score above -inf."""
    sees_nothing = (scores == float("-inf")).all(dim=-1, keepdim=True)
    # Filled before the softmax too: a NaN in it would reach the gradients, although the weights
    # are zeroed afterwards.
    weights = torch.where(sees_nothing, 0.0, scores).softmax(dim=-1)
    return torch.where(sees_nothing, 0.0, weights)
