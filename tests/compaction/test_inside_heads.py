"""Operations inside attention heads, such as a norm of the queries: whole heads can go."""

from __future__ import annotations

import pytest
import torch
from cut_modules import wrong_removals
from torch import Tensor, nn
from torch.nn import functional as F

import l0func as l0


class HandWrittenRMSNorm(nn.Module):
    """As language models write it: no function of torch does the whole."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.rand(width) + 0.5), 1e-5

    def forward(self, x: Tensor) -> Tensor:
        variance = x.pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(variance + self.eps))


class Cosine(nn.Module):
    """Unit vectors, times a learned scale that all heads share."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) * self.scale


class Centred(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-3)


class Softmax(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(-1)


class Attention(nn.Module):
    """Attention with an operation inside every head of queries and keys."""

    def __init__(self, kind: type[nn.Module], heads: int, kv_heads: int) -> None:
        super().__init__()
        self.kv_heads, self.width, self.shared = kv_heads, 3, heads // kv_heads
        self.embed, self.norm = nn.Linear(5, 12), nn.LayerNorm(12)
        self.q, self.o = nn.Linear(12, heads * 3), nn.Linear(heads * 3, 12)
        self.k, self.v = nn.Linear(12, kv_heads * 3), nn.Linear(12, kv_heads * 3)
        self.of_q, self.of_k = kind(3), kind(3)
        self.out = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        y = self.norm(h)
        b, n, _ = y.shape
        q, k, v = (p(y).view(b, n, -1, self.width) for p in (self.q, self.k, self.v))
        q, k = self.of_q(q).transpose(1, 2), self.of_k(k).transpose(1, 2)
        k = k.repeat_interleave(self.shared, 1)
        v = v.transpose(1, 2).repeat_interleave(self.shared, 1)
        y = (q @ k.mT).softmax(-1) @ v
        return self.out(h + self.o(y.transpose(1, 2).reshape(b, n, -1)))


KINDS = [nn.LayerNorm, HandWrittenRMSNorm, Cosine, Centred, Softmax]
if hasattr(nn, "RMSNorm"):
    KINDS.append(nn.RMSNorm)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_heads_go_whole_and_what_they_share_stays(kind, kv_heads):
    torch.manual_seed(0)
    module, x = Attention(kind, 4, kv_heads).eval(), torch.randn(2, 3, 5)
    groups = l0.unit_groups(module, x)
    assert groups.sizes == {"q": kv_heads}
    named = {path for group in groups.values() for path, _ in (*group.multiplies, *group.owns)}
    assert not any(path.startswith("of_") for path in named)
    assert wrong_removals(module, (x,), groups, draws=12) == []


class OverUnits(nn.Module):
    """The same operations over all units of a layer."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.a, self.over, self.b = nn.Linear(4, 6), kind(6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.over(self.a(x)))


@pytest.mark.parametrize("kind", [nn.LayerNorm, Centred, Softmax])
def test_the_same_operations_over_units_keep_them_and_are_named(kind):
    with pytest.raises(ValueError, match=r"'a.weight': .*(runs over them|are spread over)"):
        l0.unit_groups(OverUnits(kind), torch.randn(3, 4))
