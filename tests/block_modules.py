"""Deep networks of like blocks that read their sizes from attributes, in several styles."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Conv1D(nn.Module):
    """A linear layer that views its output by an attribute, as GPT-2's."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.nf = outputs
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.randn(outputs) / 9)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight)
        return y.view(*x.shape[:-1], self.nf)


class PackedHeads(nn.Module):
    """Queries, keys and values in one layer, split by an attribute."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.split_size = heads, width // heads, width
        self.c_attn, self.c_proj = Conv1D(3 * width, width), Conv1D(width, width)

    def forward(self, x: Tensor) -> Tensor:
        pieces = self.c_attn(x).split(self.split_size, dim=2)
        shape = (*x.shape[:2], self.num_heads, self.head_dim)
        q, k, v = (piece.view(shape).transpose(1, 2) for piece in pieces)
        y = (q @ k.mT).softmax(-1) @ v
        return self.c_proj(y.transpose(1, 2).flatten(2))


class SharedBias(nn.Module):
    """Attention with a position bias for every head, from the first block, as T5's."""

    def __init__(self, width: int, heads: int, first: bool) -> None:
        super().__init__()
        self.n_heads, self.d_kv, self.inner = heads, width // heads, width
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.bias = nn.Embedding(8, heads) if first else None

    def forward(self, x: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        b, n, _ = x.shape
        by_head = (b, n, self.n_heads, self.d_kv)
        q, k, v = (p(x).view(by_head).transpose(1, 2) for p in (self.q, self.k, self.v))
        if bias is None:
            at = torch.arange(n)
            bias = self.bias((at[None] - at[:, None]).clamp(-4, 3) + 4).permute(2, 0, 1)
        y = (q @ k.mT + bias).softmax(-1) @ v
        return self.o(y.transpose(1, 2).reshape(b, n, self.inner)), bias


class FusedQueries(nn.Module):
    """Sliced queries, keys and values, sizes in a shared config, packed SwiGLU, as Phi-3's."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config, width = config, config.hidden_size
        self.head_dim = width // config.heads
        self.kv_heads, self.shared = config.kv_heads, config.heads // config.kv_heads
        self.qkv = nn.Linear(width, (config.heads + 2 * config.kv_heads) * self.head_dim)
        self.o = nn.Linear(width, width)
        self.gate_up, self.down = nn.Linear(width, 20), nn.Linear(10, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        queries, keys = self.config.heads * self.head_dim, self.kv_heads * self.head_dim
        y = self.qkv(x)
        pieces = (y[..., :queries], y[..., queries : queries + keys], y[..., queries + keys :])
        q, k, v = (p.view(b, n, -1, self.head_dim).transpose(1, 2) for p in pieces)
        k, v = (t.repeat_interleave(self.shared, 1) for t in (k, v))
        y = (q @ k.mT).softmax(-1) @ v
        y = self.o(y.transpose(1, 2).reshape(b, n, -1))
        gate, up = self.gate_up(x).chunk(2, -1)
        return y + self.down(up * F.silu(gate))


class Passed(nn.Module):
    """Attention that is told its number of heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, heads: int) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (p(x).view(b, n, heads, -1).transpose(1, 2) for p in (self.q, self.k, self.v))
        y = (q @ k.mT).softmax(-1) @ v
        return self.o(y.transpose(1, 2).reshape(b, n, -1))


@dataclass(frozen=True)
class Frozen:
    """Sizes that nobody may assign."""

    hidden_size: int = 16
    heads: int = 4
    kv_heads: int = 2


class Named(NamedTuple):
    """Sizes by name."""

    hidden_size: int = 16
    heads: int = 4
    kv_heads: int = 2


CONFIGS = {
    "namespace": SimpleNamespace(hidden_size=16, heads=4, kv_heads=2, vocabulary=12, layers=8),
    "frozen dataclass": Frozen(),
    "named tuple": Named(),
}


class Blocks(nn.Module):
    """Embedded tokens, blocks in one style with residual connections, and a readout."""

    def __init__(self, style: str, depth: int) -> None:
        super().__init__()
        self.style, self.heads = style, 4
        self.embed, self.head = nn.Embedding(10, 16), nn.Linear(16, 3)
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(depth))
        self.blocks = nn.ModuleList(self._block(i) for i in range(depth))

    def _block(self, number: int) -> nn.Module:
        if self.style == "packed":
            return PackedHeads(16, 4)
        if self.style == "shared bias":
            return SharedBias(16, 4, first=number == 0)
        return Passed(16) if self.style == "passed" else FusedQueries(CONFIGS[self.style])

    def forward(self, tokens: Tensor) -> Tensor:
        x, bias = self.embed(tokens), None
        for norm, block in zip(self.norms, self.blocks, strict=True):
            if self.style == "shared bias":
                y, bias = block(norm(x), bias)
            elif self.style == "passed":
                y = block(norm(x), self.heads)
            else:
                y = block(norm(x))
            x = x + y
        return self.head(x)
