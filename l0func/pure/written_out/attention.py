"""Attention written out: what vmap, jvp, double backward and a keyed dropout can follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        key: Shape ``(*batch, S, E)``; with ``enable_gqa`` a divisor of the query's heads along
            dimension -3.
        value: Shape ``(*batch, S, V)``.
        attn_mask: Broadcastable to ``(*batch, L, S)``: bool, True where attention is allowed; or
            added to the scores.
        dropout_p: Probability of dropping an attention weight.
        is_causal: Whether position i attends to positions up to i only.
        scale: :math:`s`; None is :math:`E^{-1/2}`.
        enable_gqa: Whether heads of the query share those of key and value.
        dropout: Where the draws come from.

    Returns:
        Shape ``(*batch, L, V)``; 0 for a query that may attend to nothing.
    """
    if enable_gqa:
        key, value = (
            x.repeat_interleave(query.shape[-3] // x.shape[-3], dim=-3) for x in (key, value)
        )
    scores = (
        query @ key.transpose(-2, -1) * (1.0 / sqrt(query.shape[-1]) if scale is None else scale)
    )
    if attn_mask is not None:
        scores = scores + _additive(
            ~attn_mask if attn_mask.dtype == torch.bool else attn_mask, scores.dtype
        )
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores + _additive(later, scores.dtype)
    weights = scores.softmax(dim=-1) if attn_mask is None and not is_causal else _softmax(scores)
    return (dropout(weights, dropout_p) if dropout_p > 0.0 else weights) @ value


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask that blocks where it is True, or is additive already, as what is added to the scores."""
    return (torch.where(mask, float("-inf"), 0.0) if mask.dtype == torch.bool else mask).to(dtype)


def _softmax(scores: Tensor) -> Tensor:
    """Attention weights: 0 for a query whose every score is -inf."""
    nothing = (scores == float("-inf")).all(dim=-1, keepdim=True)
    # Filled before the softmax as well as after: NaN there would return in the gradients of what
    # is then zeroed.
    return torch.where(nothing, 0.0, torch.where(nothing, 0.0, scores).softmax(dim=-1))


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
    """Multi-head attention with the arguments of
    ``torch.nn.functional.multi_head_attention_forward``.

    Source: Vaswani et al. (2017), arXiv:1706.03762, Sec. 3.2.2.

    Args:
        query: Shape ``(L, N, E)``, or ``(L, E)`` without a batch.
        key: Shape ``(S, N, E)`` or ``(S, E)``.
        value: Shape ``(S, N, E)`` or ``(S, E)``.
        embed_dim_to_check: E.
        num_heads: H, which divides E.
        in_proj_weight: Shape ``(3E, E)``: queries, keys and values, unless they have weights of
            their own.
        in_proj_bias: Shape ``(3E,)``.
        bias_k: A key that is appended to all, shape ``(1, 1, E)``.
        bias_v: Its value, shape ``(1, 1, E)``.
        add_zero_attn: Whether a key and a value of zeros are appended.
        dropout_p: Probability of dropping an attention weight, in training.
        out_proj_weight: Shape ``(E, E)``.
        out_proj_bias: Shape ``(E,)``.
        training: Whether dropout applies.
        key_padding_mask: Shape ``(N, S)`` or ``(S,)``: bool, True where a key is padding; or added
            to the scores.
        need_weights: Whether the attention weights are returned.
        attn_mask: Shape ``(L, S)`` or ``(N * H, L, S)``: bool, True where attention is blocked; or
            added to the scores.
        use_separate_proj_weight: Whether the three weights that follow stand in for
            ``in_proj_weight``.
        q_proj_weight: Shape ``(E, E)``.
        k_proj_weight: Shape ``(E, key features)``.
        v_proj_weight: Shape ``(E, value features)``.
        static_k: Keys after projection, shape ``(N * H, S, E / H)``.
        static_v: Values after projection, likewise.
        average_attn_weights: Whether the weights are averaged over heads.
        is_causal: A hint that ``attn_mask`` is causal; the mask is what applies.
        dropout: Where the draws come from.

    Returns:
        The output, of the shape of ``query``, and the weights: ``(N, L, S)``, or ``(N, H, L, S)``;
        or None. A query that may attend to nothing has weights of 0, also where torch gives NaN.

    Raises:
        ValueError: E is not what was announced or not divisible by H, a mask has another shape,
            ``is_causal`` comes without a mask, or a bias without its pair or with static keys or
            values.
    """
    _check_heads(query.shape[-1], embed_dim_to_check, num_heads)
    _refuse(
        is_causal and attn_mask is None, "is_causal is a hint about attn_mask: give the mask too."
    )
    _refuse((bias_k is None) != (bias_v is None), "bias_k and bias_v come together or not at all.")
    static = static_k is not None or static_v is not None
    _refuse(
        static and bias_k is not None,
        "A bias cannot be appended to static keys or values: give one of the two.",
    )
    inputs = [x if x.dim() == 3 else x.unsqueeze(1) for x in (query, key, value)]
    weights_in = (
        (q_proj_weight, k_proj_weight, v_proj_weight)
        if use_separate_proj_weight
        else _thirds(in_proj_weight)
    )
    q, k, v = (
        _project(x, w, b)
        for x, w, b in zip(inputs, weights_in, _thirds(in_proj_bias), strict=True)
    )
    masks = _masks(attn_mask, key_padding_mask, (q.shape[1], num_heads, q.shape[0], k.shape[0]))
    q = _heads(q, num_heads)
    k = _keys(k, bias_k, static_k, add_zero_attn, num_heads)
    v = _keys(v, bias_v, static_v, add_zero_attn, num_heads)
    weights = _weights(q, k, masks, extra=int(bias_k is not None) + int(add_zero_attn))
    weights = dropout(weights, dropout_p) if training and dropout_p > 0.0 else weights
    output = F.linear((weights @ v).permute(2, 0, 1, 3).flatten(2), out_proj_weight, out_proj_bias)
    output = output.squeeze(1) if query.dim() == 2 else output
    if not need_weights:
        return output, None
    shown = weights.mean(dim=1) if average_attn_weights else weights
    return output, shown.squeeze(0) if query.dim() == 2 else shown


def _check_heads(features: int, announced: int, num_heads: int) -> None:
    _refuse(
        features != announced or announced % num_heads != 0,
        f"Attention of {num_heads} heads needs queries of {announced} features, a multiple of "
        f"heads; got {features}.",
    )


def _refuse(wrong: bool, message: str) -> None:
    if wrong:
        raise ValueError(message)


def _thirds(packed: Tensor | None) -> Sequence[Tensor | None]:
    return (None, None, None) if packed is None else packed.chunk(3)


def _project(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    assert weight is not None
    return F.linear(x, weight, bias)


def _heads(x: Tensor, num_heads: int) -> Tensor:
    """``(S, N, E)`` to ``(N, H, S, E / H)``."""
    # Not with -1: no size follows from an empty batch.
    return x.reshape(*x.shape[:-1], num_heads, x.shape[-1] // num_heads).permute(1, 2, 0, 3)


def _keys(
    x: Tensor, bias: Tensor | None, static: Tensor | None, zero: bool, num_heads: int
) -> Tensor:
    """Projected keys or values ``(S, N, E)`` by heads, with those that are appended or that stand
    in for them.
    """
    if static is not None:
        x = static.reshape(x.shape[1], num_heads, *static.shape[1:])
    else:
        x = _heads(
            x if bias is None else torch.cat((x, bias.expand(-1, x.shape[1], -1))), num_heads
        )
    return F.pad(x, (0, 0, 0, 1)) if zero else x


def _masks(
    mask: Tensor | None, padding: Tensor | None, sizes: tuple[int, int, int, int]
) -> list[Tensor]:
    """The masks that there are, broadcastable to ``sizes``, which is (N, H, L, S)."""
    n, heads, length, keys = sizes
    found: list[Tensor] = []
    if mask is not None:
        _check_shape("attn_mask", mask, (length, keys), (n * heads, length, keys))
        found.append(mask if mask.dim() == 2 else mask.reshape(sizes))
    if padding is not None:
        _check_shape("key_padding_mask", padding, (n, keys), (keys,))
        found.append(padding.reshape(-1, 1, 1, keys))
    return found


def _check_shape(name: str, x: Tensor, *allowed: tuple[int, ...]) -> None:
    # Broadcasting would take the masks of a whole batch for one row, and return a batch.
    if tuple(x.shape) not in allowed:
        raise ValueError(
            f"{name} has shape {' or '.join(map(str, allowed))} for these inputs; got "
            f"{tuple(x.shape)}."
        )


def _weights(q: Tensor, k: Tensor, masks: Sequence[Tensor], extra: int) -> Tensor:
    """Attention weights under masks that block where True, or are added; the last ``extra`` keys
    are open to all.
    """
    scores = q @ k.transpose(-2, -1) / sqrt(q.shape[-1])
    for mask in masks:
        scores = scores + F.pad(_additive(mask, scores.dtype), (0, extra))
    return _softmax(scores) if masks else scores.softmax(dim=-1)
