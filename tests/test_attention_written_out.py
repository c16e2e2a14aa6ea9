"""Attention in plain operations equals torch's own, and every transform follows it."""

from __future__ import annotations

import inspect
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from l0func.functions.attention import multi_head_attention_forward, scaled_dot_product_attention

N, H, L, S, E = 2, 2, 4, 3, 6
INF = float("inf")
GQA = "enable_gqa" in (F.scaled_dot_product_attention.__doc__ or "")
close = torch.testing.assert_close


def untouched(x: Tensor, p: float) -> Tensor:
    raise AssertionError("dropout was drawn where none is active")


def sdpa(*args: Any, **named: Any) -> Tensor:
    return scaled_dot_product_attention(*args, **{"dropout": untouched, **named})


def mha(*args: Any, **named: Any) -> tuple[Tensor, Tensor | None]:
    return multi_head_attention_forward(*args, **{"dropout": untouched, **named})


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def mask(*shape: int, kind: str = "bool") -> Tensor:
    """True, or -inf, where attention is blocked; the first key is open to all."""
    blocked = draw(*shape, seed=7) > 0.3
    blocked[..., 0] = False
    return blocked if kind == "bool" else draw(*shape, seed=8).masked_fill(blocked, -INF)


def with_gradients(f: Any, *leaves: Tensor) -> tuple[Any, tuple[Tensor, ...]]:
    leaves = tuple(x.detach().requires_grad_() for x in leaves)
    output = f(*leaves)
    seen = [y for y in (output if isinstance(output, tuple) else (output,)) if y is not None]
    loss = sum((y * torch.arange(y.numel()).cos().reshape(y.shape)).sum() for y in seen)
    return output, torch.autograd.grad(loss, leaves, allow_unused=True)


def qkv(query_heads: int = H, heads: int = H) -> tuple[Tensor, Tensor, Tensor]:
    return draw(N, query_heads, L, E), draw(N, heads, S, E, seed=1), draw(N, heads, S, 5, seed=2)


OPTIONS = {
    "plain": {},
    "scaled": {"scale": 0.3},
    "causal": {"is_causal": True},
    "allowed": {"attn_mask": ~mask(L, S)},
    "allowed for each head": {"attn_mask": ~mask(N, H, L, S), "scale": 2.0},
    "allowed for a row": {"attn_mask": ~mask(N, 1, 1, S)},
    "added": {"attn_mask": mask(L, S, kind="float")},
    "added for each": {"attn_mask": mask(N, 1, L, S, kind="float")},
    "lowest and blocked": {"attn_mask": torch.tensor([torch.finfo(torch.float64).min] * 2 + [-INF]).double()},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_written_out_attention_equals_torch_attention(option):
    named = dict(OPTIONS[option])
    if named.get("attn_mask") is not None and named["attn_mask"].dim() == 1:
        named["attn_mask"] = named["attn_mask"].expand(L, S)
    ours = with_gradients(lambda *x: sdpa(*x, **named), *qkv())
    close(ours, with_gradients(lambda *x: F.scaled_dot_product_attention(*x, **named), *qkv()))


def test_shared_heads_equal_repeated_heads():
    q, k, v = qkv(query_heads=6)
    repeated = F.scaled_dot_product_attention(q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1))
    close(sdpa(q, k, v, enable_gqa=True), repeated)
    if GQA:
        close(repeated, F.scaled_dot_product_attention(q, k, v, enable_gqa=True))


def test_a_mask_and_causality_block_together():
    both = mask(L, S) | torch.ones(L, S, dtype=torch.bool).triu(1)
    close(sdpa(*qkv(), attn_mask=~mask(L, S), is_causal=True), F.scaled_dot_product_attention(*qkv(), attn_mask=~both))


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_a_query_that_may_attend_to_nothing_gives_zero_and_finite_gradients(kind):
    blocked = mask(L, S).index_fill(0, torch.tensor(1), True)
    given = ~blocked if kind == "bool" else torch.zeros(L, S).double().masked_fill(blocked, -INF)
    output, slopes = with_gradients(lambda *x: sdpa(*x, attn_mask=given), *qkv())
    assert torch.equal(output[:, :, 1], torch.zeros(N, H, 5).double())
    if GQA:  # Older versions give NaN.
        theirs = with_gradients(lambda *x: F.scaled_dot_product_attention(*x, attn_mask=given), *qkv())
        close((output, slopes), theirs)
    assert all(slope.isfinite().all() for slope in slopes)
    names = multi_head(bias=False, zero=False, separate=False) | {"attn_mask": blocked}
    attended, weights = mha(**names)
    assert weights is not None
    assert torch.equal(weights[:, 1], torch.zeros(N, S).double())
    close(attended[1], names["out_proj_bias"].expand(N, E))


def test_dropout_acts_on_the_attention_weights():
    q, k, v = qkv()
    keep = torch.tensor([0.0, 2.0, 1.0]).double()
    dropped = sdpa(q, k, v, dropout_p=0.25, dropout=lambda w, p: w * keep + p - 0.25)
    close(dropped, F.scaled_dot_product_attention(q, k, v * keep[:, None]))
    names = multi_head(bias=False, zero=False, separate=False) | {"static_v": draw(N * H, S, E // H), "dropout_p": 0.5}
    ours = mha(**names, training=True, dropout=lambda w, p: w * keep + p - 0.5)[0]
    close(ours, mha(**names | {"static_v": names["static_v"] * keep[:, None]}, training=False)[0])


def multi_head(bias: bool, zero: bool, separate: bool, batched: bool = True) -> dict[str, Any]:
    """Keyword arguments for multi-head attention over S keys by L queries."""
    torch.manual_seed(0)
    sizes = {"kdim": 5, "vdim": 4} if separate else {}
    m = nn.MultiheadAttention(E, H, add_bias_kv=bias, add_zero_attn=zero, dtype=torch.float64, **sizes)
    nn.init.normal_(m.in_proj_bias)
    nn.init.normal_(m.out_proj.bias)
    features = {"query": (L, E), "key": (S, sizes.get("kdim", E)), "value": (S, sizes.get("vdim", E))}
    inputs = {n: draw(s[0], *([N] if batched else []), s[1], seed=i) for i, (n, s) in enumerate(features.items())}
    taken = ("in_proj_weight", "in_proj_bias", "bias_k", "bias_v", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    weights = {name: x if (x := getattr(m, name)) is None else x.detach() for name in taken}
    out = {"out_proj_weight": m.out_proj.weight.detach(), "out_proj_bias": m.out_proj.bias.detach()}
    rest = {"embed_dim_to_check": E, "num_heads": H, "add_zero_attn": zero, "dropout_p": 0.0}
    return {**inputs, **weights, **out, **rest, "use_separate_proj_weight": separate}


def masks(dims: int, padded: bool, kind: str, batched: bool) -> dict[str, Tensor]:
    batch = N if batched else 1
    found = {2: {"attn_mask": mask(L, S, kind=kind)}, 3: {"attn_mask": mask(batch * H, L, S, kind=kind)}}.get(dims, {})
    return found | ({"key_padding_mask": mask(*([N] if batched else []), S, kind=kind)} if padded else {})


def same(names: dict[str, Any], ours: Any = mha) -> None:
    """Values, and gradients for every floating tensor, are those of torch."""
    leaves = {n: x for n, x in names.items() if isinstance(x, Tensor) and x.is_floating_point()}
    runs = [
        with_gradients(lambda *x, f=f: f(**names | dict(zip(leaves, x, strict=True))), *leaves.values())
        for f in (ours, F.multi_head_attention_forward)
    ]
    close(runs[0], runs[1])


SHOWN = [{"need_weights": False}, {"average_attn_weights": True}, {"average_attn_weights": False}]


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(("bias", "zero", "separate"), list(product([False, True], repeat=3)))
@pytest.mark.parametrize(("dims", "padded", "kind"), list(product([0, 2, 3], [False, True], ["bool", "float"])))
def test_written_out_multi_head_attention_equals_torch(bias, zero, separate, dims, padded, kind, batched):
    for shown in SHOWN:
        same(multi_head(bias, zero, separate, batched) | masks(dims, padded, kind, batched) | shown)


@pytest.mark.parametrize("shown", SHOWN, ids=str)
def test_statics_causal_hints_missing_biases_and_empty_batches_are_those_of_torch(shown):
    names = multi_head(bias=False, zero=True, separate=False) | shown
    same(names | {"static_k": draw(N * H, 5, E // H), "static_v": draw(N * H, 5, E // H, seed=3)})
    same(names | {"in_proj_bias": None, "out_proj_bias": None})
    same(names | {"query": draw(L, 0, E), "key": draw(S, 0, E), "value": draw(S, 0, E)})
    causal = torch.ones(L, S, dtype=torch.bool).triu(1)
    same(names | {"add_zero_attn": False, "attn_mask": causal, "is_causal": True})
