"""Sequence architectures as their authors write them; ``strangers`` lists them with inputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """Attention made of plain Linears, with head counts in attributes and a mask in a buffer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_attention_heads = heads
        self.attention_head_size = width // heads
        self.all_head_size = width
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.register_buffer("causal", torch.ones(1, 1, 16, 16).tril())

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.num_attention_heads, self.attention_head_size).permute(
            0, 2, 1, 3
        )

    def forward(self, x: Tensor) -> Tensor:
        q = self.split(self.query(x))
        k = self.split(self.key(x))
        v = self.split(self.value(x))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(self.attention_head_size)
        length = x.shape[1]
        future = self.causal[:, :, :length, :length] == 0
        scores = scores.masked_fill(future, float("-inf"))
        y = torch.matmul(F.softmax(scores, dim=-1), v).permute(0, 2, 1, 3).contiguous()
        return y.view(*y.shape[:-2], self.all_head_size)


class Encoder(nn.Module):
    """Token and position embeddings, two pre-norm blocks, a classifier on the first token."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.attention, self.output = SelfAttention(width, 4), nn.Linear(width, width)
            self.mlp = nn.Sequential(
                nn.Linear(width, 10), nn.GELU(), nn.Dropout(0.1), nn.Linear(10, width)
            )

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.output(self.attention(self.norm1(x)))
            return x + self.mlp(self.norm2(x))

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(11, 8), nn.Parameter(torch.randn(1, 16, 8))
        self.first = nn.Parameter(torch.randn(1, 1, 8))
        self.blocks = nn.ModuleList(self.Block(8) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        first = self.first.expand(len(tokens), -1, -1)
        x = torch.cat([first, self.words(tokens)], dim=1)
        x = x + self.positions[:, : x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class GroupedQueries(nn.Module):
    """Four query heads that share two key and value heads, by scaled_dot_product_attention."""

    def __init__(self) -> None:
        super().__init__()
        self.n_heads, self.n_kv, self.size = 4, 2, 3
        self.q, self.o = nn.Linear(6, 12, bias=False), nn.Linear(12, 6, bias=False)
        self.kv = nn.Linear(6, 12, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q = self.q(x).view(n, length, self.n_heads, self.size).transpose(1, 2)
        k, v = self.kv(x).view(n, length, 2, self.n_kv, self.size).unbind(2)
        sharers = self.n_heads // self.n_kv
        k = k.transpose(1, 2).repeat_interleave(sharers, dim=1)
        v = v.transpose(1, 2).repeat_interleave(sharers, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(y.transpose(1, 2).reshape(n, length, -1))


class Tagger(nn.Module):
    """Embedded words, two bidirectional recurrent layers, a gated readout of the last state."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 6)
        self.rnn = kind(6, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.mix, self.out = nn.Linear(10, 14), nn.Linear(7, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(F.glu(self.mix(self.rnn(self.words(tokens))[0])))


class LastState(nn.Module):
    """A recurrent layer, read by its final hidden state only."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden_size = 6
        self.lstm, self.out = nn.LSTM(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        zero = torch.zeros(1, x.shape[1], self.hidden_size, dtype=x.dtype)
        _, (h, _) = self.lstm(x, (zero, zero))
        return self.out(h[-1])


class Normed(nn.Module):
    """Token embeddings into a residual stream under RMSNorm, with gated feed-forward layers."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.RMSNorm(width, eps=0.1), nn.RMSNorm(width)
            self.q, self.o = nn.Linear(width, 6), nn.Linear(6, width)
            self.up, self.gate = nn.Linear(width, 9), nn.Linear(width, 9)
            self.down = nn.Linear(9, width)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.o(torch.tanh(self.q(self.norm1(x))))
            y = self.norm2(x)
            return x + self.down(F.silu(self.gate(y)) * self.up(y))

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(11, 8), nn.Parameter(torch.randn(1, 16, 8))
        self.blocks = nn.Sequential(self.Block(8), self.Block(8))
        self.norm, self.head = nn.RMSNorm(8), nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.positions[:, : tokens.shape[1]]
        return self.head(self.norm(self.blocks(x)))


class Padded(nn.Module):
    """Cross-attention, time first, under a mask that forward writes into views."""

    def __init__(self) -> None:
        super().__init__()
        self.mha, self.out = nn.MultiheadAttention(8, 4), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        padding = torch.zeros(x.shape[1], x.shape[0], dtype=torch.bool)
        padding[:, 1:][:, 1:].fill_(True)
        mask = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        y, _ = self.mha(x, 0.5 * x, x + 1, key_padding_mask=padding, attn_mask=mask)
        return self.out(y)


class First(nn.Module):
    """The first output of a module with several outputs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)[0]
