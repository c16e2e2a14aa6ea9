"""Functions written out against torch's own: values, gradients, rows, and every option that matters."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from l0func.functions import attention, linear, recurrent


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def no_dropout(x: Tensor, p: float) -> Tensor:
    raise AssertionError


def slopes(value: Any, *leaves: Tensor) -> tuple[Tensor, ...]:
    outputs = [v for v in (value if isinstance(value, tuple) else (value,)) if v is not None]
    total = sum((v * torch.cos(torch.arange(v.numel())).reshape(v.shape)).sum() for v in outputs)
    return torch.autograd.grad(total, leaves)


KINDS = {"LSTM": recurrent.lstm, "GRU": recurrent.gru, "RNN_TANH": recurrent.rnn_tanh, "RNN_RELU": recurrent.rnn_relu}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("bias", "both_ways", "batch_first"), list(itertools.product((True, False), repeat=3)))
@pytest.mark.parametrize(("layers", "proj"), [(1, 0), (2, 0), (2, 2)])
def test_recurrent_networks_equal_torchs(kind, bias, both_ways, batch_first, layers, proj):
    if proj and kind != "LSTM":
        proj = 0
    options: dict[str, Any] = {"bias": bias, "bidirectional": both_ways, "batch_first": batch_first, "num_layers": layers}
    if kind == "LSTM":
        options["proj_size"] = proj
    if kind.startswith("RNN"):
        options["nonlinearity"] = kind[4:].lower()
    module = getattr(nn, kind[:3] if kind.startswith("RNN") else kind)(3, 4, **options)
    module.eval()
    x = torch.randn((2, 5, 3) if batch_first else (5, 2, 3), requires_grad=True)
    count = layers * (2 if both_ways else 1)
    h, c = torch.randn(count, 2, proj or 4, requires_grad=True), torch.randn(count, 2, 4, requires_grad=True)
    hx = (h, c) if kind == "LSTM" else h
    weights = list(module.parameters())
    arguments = (x, hx, weights, bias, layers, 0.5, False, both_ways, batch_first)
    assert not recurrent.is_packed(arguments)
    ours = KINDS[kind](*arguments, dropout=no_dropout)
    output, final = module(x, hx)
    theirs = (output, *final) if kind == "LSTM" else (output, final)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(slopes(ours, x, h, *weights), slopes(theirs, x, h, *weights))


def test_dropout_stands_between_layers_only():
    module = nn.GRU(3, 4, 3)
    calls = []

    def drop(x: Tensor, p: float) -> Tensor:
        calls.append((tuple(x.shape), p))
        return x

    x, h = torch.randn(5, 2, 3), torch.zeros(3, 2, 4)
    recurrent.gru(x, h, list(module.parameters()), True, 3, 0.25, True, False, False, dropout=drop)
    assert calls == [((5, 2, 4), 0.25)] * 2


def test_recurrent_cells_equal_torchs():
    x, h, c = torch.randn(2, 3), torch.randn(2, 4), torch.randn(2, 4)
    lstm, gru = nn.LSTMCell(3, 4), nn.GRUCell(3, 4)
    torch.testing.assert_close(recurrent.lstm_cell(x, (h, c), *lstm.parameters()), lstm(x, (h, c)))
    torch.testing.assert_close(recurrent.gru_cell(x, h, *gru.parameters()), gru(x, h))


MASKS = [None, "bool", "float", "bool_each_head"]


@pytest.mark.parametrize(("separate", "batched", "need"), list(itertools.product((True, False), repeat=3)))
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("padding", [None, "bool", "float"])
def test_multi_head_attention_equals_torchs(separate, batched, need, mask, padding):
    for bias, bias_kv, zero, average in itertools.product((True, False), repeat=4):
        sizes = {"kdim": 5, "vdim": 6} if separate else {}
        m = nn.MultiheadAttention(8, 2, bias=bias, add_bias_kv=bias_kv, add_zero_attn=zero, **sizes)
        if bias:
            nn.init.normal_(m.in_proj_bias)
        q, k, v = torch.randn(3, 2, 8), torch.randn(4, 2, sizes.get("kdim", 8)), torch.randn(4, 2, sizes.get("vdim", 8))
        pad = {None: None, "bool": torch.rand(2, 4) < 0.3, "float": torch.randn(2, 4)}[padding]
        each = (4, 3, 4) if batched else (2, 3, 4)
        attn = {
            None: None, "bool": torch.rand(3, 4) < 0.3, "float": torch.randn(3, 4), "bool_each_head": torch.rand(each) < 0.3,
        }[mask]  # fmt: skip
        if padding == "bool":
            pad[:, 0] = False
        if mask is not None and mask.startswith("bool"):
            attn[..., 0] = False
        if not batched:
            q, k, v, pad = q[:, 0], k[:, 0], v[:, 0], None if pad is None else pad[0]
        with warnings.catch_warnings():
            # torch wants both masks of one type; the written-out form does not mind.
            warnings.simplefilter("ignore")
            theirs = m(q, k, v, key_padding_mask=pad, need_weights=need, attn_mask=attn, average_attn_weights=average)
        ours = attention.multi_head_attention_forward(
            q, k, v, 8, 2, m.in_proj_weight, m.in_proj_bias, m.bias_k, m.bias_v, zero, 0.0, m.out_proj.weight,
            m.out_proj.bias, False, pad, need, attn, separate, m.q_proj_weight, m.k_proj_weight, m.v_proj_weight,
            average_attn_weights=average, dropout=no_dropout,
        )  # fmt: skip
        torch.testing.assert_close(ours[0], theirs[0])
        assert (ours[1] is None) == (theirs[1] is None)
        if need:
            torch.testing.assert_close(ours[1], theirs[1])


def test_static_keys_and_values_equal_torchs():
    m, q = nn.MultiheadAttention(8, 2), torch.randn(3, 2, 8)
    k, v = torch.randn(4, 5, 4), torch.randn(4, 5, 4)
    named = {"static_k": k, "static_v": v, "training": False}
    arguments = (q, q, q, 8, 2, m.in_proj_weight, m.in_proj_bias, None, None, False, 0.0, m.out_proj.weight, m.out_proj.bias)
    ours = attention.multi_head_attention_forward(*arguments, **named, dropout=no_dropout)
    torch.testing.assert_close(ours, F.multi_head_attention_forward(*arguments, **named))


@pytest.mark.parametrize("kind", ["plain", "causal", "bool", "float", "lowest"])
def test_attention_and_its_gradients_equal_torchs(kind):
    q, k, v = (torch.randn(2, 4, n, 5, requires_grad=True) for n in (3, 6, 6))
    mask = {"bool": torch.rand(3, 6) < 0.6, "float": torch.randn(3, 6), "lowest": torch.zeros(3, 6)}.get(kind)
    if kind == "bool":
        mask[:, 0] = True
    if kind == "lowest":
        mask[:, 1:3] = float("-inf")
    named = {"attn_mask": mask, "is_causal": kind == "causal"}
    ours = attention.scaled_dot_product_attention(q, k, v, **named, dropout=no_dropout)
    theirs = F.scaled_dot_product_attention(q, k, v, **named)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(slopes(ours, q, k, v), slopes(theirs, q, k, v))


def test_a_query_that_may_attend_to_nothing_gets_zero_and_finite_gradients():
    q, k, v = (torch.randn(2, 3, 4, requires_grad=True) for _ in range(3))
    mask = torch.ones(3, 3, dtype=torch.bool)
    mask[1] = False
    output = attention.scaled_dot_product_attention(q, k, v, mask, dropout=no_dropout)
    assert (output[:, 1] == 0).all()
    assert all(g.isfinite().all() for g in slopes(output, q, k, v))


def test_queries_may_share_heads_and_have_a_scale_of_their_own():
    q, k, v = torch.randn(2, 6, 3, 4), torch.randn(2, 2, 5, 4), torch.randn(2, 2, 5, 4)
    ours = attention.scaled_dot_product_attention(q, k, v, scale=0.3, enable_gqa=True, dropout=no_dropout)
    for head in range(6):
        scores = q[:, head] @ k[:, head // 3].transpose(-2, -1) * 0.3
        torch.testing.assert_close(ours[:, head], scores.softmax(-1) @ v[:, head // 3])


def test_products_without_a_batching_rule_equal_torchs():
    a, b, w, bias = torch.randn(5, 3), torch.randn(5, 2), torch.randn(4, 3, 2), torch.randn(4)
    torch.testing.assert_close(linear.bilinear(a, b, w, bias), F.bilinear(a, b, w, bias))
    torch.testing.assert_close(linear.bilinear(a[0], b[0], w), F.bilinear(a[0], b[0], w))
    for dim in (0, 1, -1):
        v = torch.randn(4, 3, 2)
        g = torch.rand(()) if dim == -1 else torch.rand([n if d == dim else 1 for d, n in enumerate(v.shape)])
        norms = v.norm() if dim == -1 else v.movedim(dim, 0).flatten(1).norm(dim=1).reshape(g.shape)
        torch.testing.assert_close(linear.weight_norm(v, g, dim), v * g / norms)
