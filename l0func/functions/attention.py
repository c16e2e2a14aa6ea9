"""Attention written out: what vmap, jvp, double backward and a keyed dropout can follow."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional as F

Dropout = Callable[[Tensor, float], Tensor]
"""``(x, p)`` to ``x`` after dropout; called only with p > 0."""


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
        key: Shape ``(*batch, S, E)``; with ``enable_gqa`` a divisor of the query's heads along dimension -3.
        value: Shape ``(*batch, S, V)``.
        attn_mask: Broadcastable to ``(*batch, L, S)``: bool, True where attention is allowed; or added to the scores.
        dropout_p: Probability of dropping an attention weight.
        is_causal: Whether position i attends to positions up to i only.
        scale: :math:`s`; None is :math:`E^{-1/2}`.
        enable_gqa: Whether heads of the query share those of key and value.
        dropout: Where the draws come from.

    Returns:
        Shape ``(*batch, L, V)``; 0 for a query that may attend to nothing.
    """
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], dim=-3) for x in (key, value))
    scores = query @ key.transpose(-2, -1) * (1.0 / sqrt(query.shape[-1]) if scale is None else scale)
    blocked = None
    if is_causal:
        blocked = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    if attn_mask is not None:
        blocked, bias = (~attn_mask, None) if attn_mask.dtype == torch.bool else _split(attn_mask)
        scores = scores if bias is None else scores + bias
    weights = _softmax(scores, blocked)
    return (weights if dropout_p == 0.0 else dropout(weights, dropout_p)) @ value


def _split(mask: Tensor) -> tuple[Tensor, Tensor]:
    """An additive mask as what it blocks, and the finite rest."""
    blocked = mask == float("-inf")
    return blocked, torch.where(blocked, 0.0, mask)


def _softmax(scores: Tensor, blocked: Tensor | None) -> Tensor:
    if blocked is None:
        return scores.softmax(dim=-1)
    # A finite filling: where a whole row is blocked, -inf would give NaN, also in the gradients of what is then zeroed.
    lowest = torch.finfo(scores.dtype).min
    return torch.where(blocked, 0.0, torch.where(blocked, lowest, scores).softmax(dim=-1))


def multi_head_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
    *,
    dropout: Dropout,
) -> tuple[Tensor, Tensor | None]:
    """Multi-head attention with the arguments of ``torch.nn.functional.multi_head_attention_forward``.

    Source: Vaswani et al. (2017), arXiv:1706.03762, Sec. 3.2.2.

    Args:
        query: Shape ``(L, N, E)``, or ``(L, E)`` without a batch.
        key: Shape ``(S, N, E)`` or ``(S, E)``.
        value: Shape ``(S, N, E)`` or ``(S, E)``.
        embed_dim_to_check: E.
        num_heads: H, which divides E.
        in_proj_weight: Shape ``(3E, E)``: queries, keys and values, unless they have weights of their own.
        in_proj_bias: Shape ``(3E,)``.
        bias_k: A key that is appended to all, shape ``(1, 1, E)``.
        bias_v: Its value, shape ``(1, 1, E)``.
        add_zero_attn: Whether a key and a value of zeros are appended.
        dropout_p: Probability of dropping an attention weight, in training.
        out_proj_weight: Shape ``(E, E)``.
        out_proj_bias: Shape ``(E,)``.
        training: Whether dropout applies.
        key_padding_mask: Shape ``(N, S)`` or ``(S,)``: bool, True where a key is padding; or added to the scores.
        need_weights: Whether the attention weights are returned.
        attn_mask: Shape ``(L, S)`` or ``(N * H, L, S)``: bool, True where attention is blocked; or added to the scores.
        use_separate_proj_weight: Whether the three weights that follow stand in for ``in_proj_weight``.
        q_proj_weight: Shape ``(E, E)``.
        k_proj_weight: Shape ``(E, key features)``.
        v_proj_weight: Shape ``(E, value features)``.
        static_k: Keys after projection, shape ``(N * H, S, E / H)``.
        static_v: Values after projection, likewise.
        average_attn_weights: Whether the weights are averaged over heads.
        is_causal: A hint that ``attn_mask`` is causal.
        dropout: Where the draws come from.

    Returns:
        The output, of the shape of ``query``, and the weights: ``(N, L, S)``, or ``(N, H, L, S)``; or None.

    Raises:
        ValueError: E is not what was announced or not divisible by H, or ``is_causal`` comes without a mask.
    """
    if query.shape[-1] != embed_dim_to_check or embed_dim_to_check % num_heads:
        raise ValueError(f"Attention of {num_heads} heads over {embed_dim_to_check} features; got {query.shape[-1]}.")
    if is_causal and attn_mask is None:
        raise ValueError("is_causal is a hint about attn_mask: give the mask too.")
    batched = query.dim() == 3
    if not batched:
        query, key, value = query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1)
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    if use_separate_proj_weight:
        parts = (q_proj_weight, k_proj_weight, v_proj_weight)
    else:
        assert in_proj_weight is not None
        parts = in_proj_weight.chunk(3)
    biases = (None, None, None) if in_proj_bias is None else in_proj_bias.chunk(3)
    q, k, v = (_project(x, w, b) for x, w, b in zip((query, key, value), parts, biases, strict=True))
    extra = 0
    if bias_k is not None and bias_v is not None:
        k, v = (torch.cat((x, b.expand(-1, x.shape[1], -1))) for x, b in ((k, bias_k), (v, bias_v)))
        extra += 1
    q, k, v = (_heads(x, num_heads) for x in (q, k, v))
    k = k if static_k is None else static_k.reshape(k.shape[0], num_heads, *static_k.shape[1:])
    v = v if static_v is None else static_v.reshape(v.shape[0], num_heads, *static_v.shape[1:])
    if add_zero_attn:
        k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        extra += 1
    if attn_mask is not None and attn_mask.dim() == 3:
        attn_mask = attn_mask.reshape(-1, num_heads, *attn_mask.shape[1:])
    padding = None if key_padding_mask is None else key_padding_mask[:, None, None, :]
    weights = _weights(q, k, [m for m in (attn_mask, padding) if m is not None], extra)
    weights = dropout(weights, dropout_p) if training and dropout_p > 0.0 else weights
    joined = (weights @ v).permute(2, 0, 1, 3).flatten(2)
    output = F.linear(joined, out_proj_weight, out_proj_bias)
    shown = weights.mean(dim=1) if average_attn_weights else weights
    if not batched:
        output, shown = output.squeeze(1), shown.squeeze(0)
    return output, shown if need_weights else None


def _project(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    assert weight is not None
    return F.linear(x, weight, bias)


def _heads(x: Tensor, num_heads: int) -> Tensor:
    """``(S, N, E)`` to ``(N, H, S, E / H)``."""
    return x.reshape(*x.shape[:-1], num_heads, -1).permute(1, 2, 0, 3)


def _weights(q: Tensor, k: Tensor, masks: list[Tensor], extra: int) -> Tensor:
    """Attention weights under masks that block where they are True, or are added; ``extra`` last keys have no mask."""
    scores = q @ k.transpose(-2, -1) / sqrt(q.shape[-1])
    blocked: Tensor | None = None
    for mask in masks:
        mask_blocks, bias = (mask, None) if mask.dtype == torch.bool else _split(mask)
        scores = scores if bias is None else scores + F.pad(bias, (0, extra)).to(scores.dtype)
        # As integers: pad has no batching rule for booleans everywhere.
        padded = F.pad(mask_blocks.to(torch.uint8), (0, extra)) != 0
        blocked = padded if blocked is None else blocked | padded
    return _softmax(scores, blocked)
