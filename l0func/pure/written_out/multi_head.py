"""Multi-head attention in plain operations.

vmap, jvp and double backward cannot follow torch's fused functions, and dropout in them cannot
draw from a key. A gated packed projection also stays gated through these operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from l0func.pure.written_out.attention import additive, masked_softmax
from l0func.pure.written_out.dropout import Dropout
from l0func.pure.written_out.sequences import warn_of_one_step


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
    """Multi-head attention, with the arguments of ``F.multi_head_attention_forward``.

    Source: Vaswani et al. (2017), arXiv:1706.03762, Sec. 3.2.2.

    Args:
        query: Shape ``(L, N, E)``, or ``(L, E)`` without a batch.
        key: Shape ``(S, N, E)`` or ``(S, E)``.
        value: Shape ``(S, N, E)`` or ``(S, E)``.
        embed_dim_to_check: E.
        num_heads: H; it divides E.
        in_proj_weight: Shape ``(3E, E)``: for queries, keys and values, unless they have their own
            weights.
        in_proj_bias: Shape ``(3E,)``.
        bias_k: A key to append to the others, shape ``(1, 1, E)``.
        bias_v: The value for ``bias_k``, shape ``(1, 1, E)``.
        add_zero_attn: Whether a key and a value with zeros only are appended.
        dropout_p: Probability that an attention weight is dropped, in training.
        out_proj_weight: Shape ``(E, E)``.
        out_proj_bias: Shape ``(E,)``.
        training: Whether dropout applies.
        key_padding_mask: Shape ``(N, S)`` or ``(S,)``: bool, True where a key is padding; or added
            to the scores.
        need_weights: Whether the attention weights are returned.
        attn_mask: Shape ``(L, S)`` or ``(N * H, L, S)``: bool, True where attention is blocked; or
            added to the scores.
        use_separate_proj_weight: Whether the next three weights replace ``in_proj_weight``.
        q_proj_weight: Shape ``(E, E)``.
        k_proj_weight: Shape ``(E, key features)``.
        v_proj_weight: Shape ``(E, value features)``.
        static_k: Keys after projection, shape ``(N * H, S, E / H)``.
        static_v: Values after projection, likewise.
        average_attn_weights: Whether the weights are averaged over heads.
        is_causal: A hint that ``attn_mask`` is causal. It has no effect beside the mask.
        dropout: Applies dropout; called with p > 0 only.

    Returns:
        The output, shaped as ``query``, and the attention weights: ``(N, L, S)`` if averaged, else
        ``(N, H, L, S)``; None without ``need_weights``. A query that may attend to nothing has
        weights of 0, also where torch gives NaN.

    Raises:
        ValueError: E differs from ``embed_dim_to_check`` or H does not divide it; a mask has
            another shape; ``is_causal`` comes without a mask; ``bias_k`` or ``bias_v`` comes
            alone, or with static keys or values.
    """
    _check_heads(query.shape[-1], embed_dim_to_check, num_heads)
    _check_causal(is_causal, attn_mask)
    _check_appended(bias_k, bias_v, static_k, static_v)
    if use_separate_proj_weight:
        projections = (q_proj_weight, k_proj_weight, v_proj_weight)
    else:
        projections = _thirds(in_proj_weight)
    biases = _thirds(in_proj_bias)
    q = _projected(query, projections[0], biases[0])
    k = _projected(key, projections[1], biases[1])
    v = _projected(value, projections[2], biases[2])
    length, n = q.shape[:2]
    warn_of_one_step("multi_head_attention_forward", q, max(length, k.shape[0]), n)
    sizes = (n, num_heads, length, k.shape[0])
    masks = _masks(attn_mask, key_padding_mask, sizes)
    q = _by_head(q, num_heads)
    k = _all_keys(k, bias_k, static_k, add_zero_attn, num_heads)
    v = _all_keys(v, bias_v, static_v, add_zero_attn, num_heads)
    appended = int(bias_k is not None) + int(add_zero_attn)
    weights = _weights(q, k, masks, appended)
    if training and dropout_p > 0.0:
        weights = dropout(weights, dropout_p)
    mixed = (weights @ v).permute(2, 0, 1, 3).flatten(2)
    output = F.linear(mixed, out_proj_weight, out_proj_bias)
    is_batched = query.dim() == 3
    if not is_batched:
        output = output.squeeze(1)
    if not need_weights:
        return output, None
    shown = weights.mean(dim=1) if average_attn_weights else weights
    return output, shown if is_batched else shown.squeeze(0)


def _check_heads(features: int, announced: int, num_heads: int) -> None:
    if features != announced or announced % num_heads != 0:
        raise ValueError(
            f"Attention of {num_heads} heads needs queries of {announced} features, a multiple of "
            f"heads; got {features}."
        )


def _check_causal(is_causal: bool, attn_mask: Tensor | None) -> None:
    if is_causal and attn_mask is None:
        raise ValueError("is_causal is a hint about attn_mask: give the mask too.")


def _check_appended(
    bias_k: Tensor | None, bias_v: Tensor | None, static_k: Tensor | None, static_v: Tensor | None
) -> None:
    if (bias_k is None) != (bias_v is None):
        raise ValueError("bias_k and bias_v come together or not at all.")
    is_static = static_k is not None or static_v is not None
    if is_static and bias_k is not None:
        raise ValueError(
            "A bias cannot be appended to static keys or values: give one of the two."
        )


def _thirds(packed: Tensor | None) -> Sequence[Tensor | None]:
    return (None, None, None) if packed is None else packed.chunk(3)


def _projected(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """The projection, ``(L, N, E)``; N is 1 for an input without a batch."""
    assert weight is not None
    if x.dim() != 3:
        x = x.unsqueeze(1)
    return F.linear(x, weight, bias)


def _by_head(x: Tensor, num_heads: int) -> Tensor:
    """``(S, N, E)`` to ``(N, H, S, E / H)``."""
    # The size of a head is not -1: torch infers no size for an empty batch.
    size = x.shape[-1] // num_heads
    heads = x.reshape(*x.shape[:-1], num_heads, size)
    return heads.permute(1, 2, 0, 3)


def _all_keys(
    x: Tensor, bias: Tensor | None, static: Tensor | None, add_zero: bool, num_heads: int
) -> Tensor:
    """Keys or values by head, ``(N, H, S, E / H)``, with the appended ones.

    Args:
        x: Projected keys or values, ``(S, N, E)``.
        bias: One to append, or None.
        static: Those that replace ``x``, or None.
        add_zero: Whether zeros are appended.
        num_heads: H.
    """
    n = x.shape[1]
    if static is not None:
        x = static.reshape(n, num_heads, *static.shape[1:])
    else:
        if bias is not None:
            appended = bias.expand(-1, n, -1)
            x = torch.cat((x, appended))
        x = _by_head(x, num_heads)
    return F.pad(x, (0, 0, 0, 1)) if add_zero else x


def _masks(
    mask: Tensor | None, padding: Tensor | None, sizes: tuple[int, int, int, int]
) -> list[Tensor]:
    """The masks that were given, broadcastable to ``sizes``: (N, H, L, S)."""
    n, heads, length, keys = sizes
    found: list[Tensor] = []
    if mask is not None:
        shared, each = (length, keys), (n * heads, length, keys)
        _check_mask_shape("attn_mask", mask, shared, each)
        if mask.dim() != 2:
            mask = mask.reshape(sizes)
        found.append(mask)
    if padding is not None:
        _check_mask_shape("key_padding_mask", padding, (n, keys), (keys,))
        found.append(padding.reshape(-1, 1, 1, keys))
    return found


def _check_mask_shape(name: str, x: Tensor, *allowed: tuple[int, ...]) -> None:
    # Broadcasting would take the masks of a whole batch for one row, and return a batch.
    shape = tuple(x.shape)
    if shape not in allowed:
        rule = " or ".join(map(str, allowed))
        raise ValueError(f"{name} has shape {rule} for these inputs; got {shape}.")


def _weights(q: Tensor, k: Tensor, masks: Sequence[Tensor], appended: int) -> Tensor:
    """Attention weights ``(N, H, L, S)``; masks leave the last ``appended`` keys open to all."""
    products = q @ k.transpose(-2, -1)
    scores = products / sqrt(q.shape[-1])
    for mask in masks:
        blocking = additive(mask, scores.dtype)
        scores = scores + F.pad(blocking, (0, appended))
    return masked_softmax(scores) if masks else scores.softmax(dim=-1)
