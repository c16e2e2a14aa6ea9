"""Units through seldom used operations: batched weights, shuffles, shared kernels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cut_modules import wrong_removals
from device import seeded_generator
from torch import Tensor, nn
from torch.nn import functional as F

import l0func as l0

TOKENS = torch.randn(2, 4, 5, generator=seeded_generator(1))


def found(module: nn.Module, x: Tensor) -> dict[str, int]:
    """The sizes of a module's groups, after many removals that were exact."""
    groups = l0.unit_groups(module.eval(), x)
    assert wrong_removals(module, (x,), groups, draws=12) == []
    return groups.sizes


class HeadMatrices(nn.Module):
    """Attention with parameters of shape (heads, d, k)."""

    def __init__(self, formula: Callable[[HeadMatrices, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.e, self.out, self.formula = nn.Linear(5, 8), nn.Linear(8, 2), formula
        self.q, self.k, self.v = (nn.Parameter(torch.randn(4, 8, 3)) for _ in range(3))
        self.o = nn.Parameter(torch.randn(4, 3, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.formula(self, self.e(x)))


def _heads_first(m: HeadMatrices, x: Tensor) -> Tensor:
    q, k, v = (torch.einsum("bnd,hdk->bhnk", x, w) for w in (m.q, m.k, m.v))
    return torch.einsum("bhnk,hkd->bnd", (q @ k.mT).softmax(-1) @ v, m.o)


def _heads_second(m: HeadMatrices, x: Tensor) -> Tensor:
    q, k, v = (torch.einsum("bnd,hdk->bnhk", x, w) for w in (m.q, m.k, m.v))
    scores = torch.einsum("bnhk,bmhk->bhnm", q, k).softmax(-1)
    mixed = torch.einsum("bhnm,bmhk->bnhk", scores, v)
    return torch.einsum("bnhk,hkd->bnd", mixed, m.o)


def _by_broadcasting(m: HeadMatrices, x: Tensor) -> Tensor:
    q, k, v = (x[:, None] @ w for w in (m.q, m.k, m.v))
    return (((q @ k.mT).softmax(-1) @ v) @ m.o).sum(1)


def _fused(m: HeadMatrices, x: Tensor) -> Tensor:
    q, k, v = (torch.matmul(x.unsqueeze(1), w) for w in (m.q, m.k, m.v))
    mixed = F.scaled_dot_product_attention(q, k, v)
    return torch.einsum("bhnk,hkd->bnd", mixed, m.o)


@pytest.mark.parametrize("formula", [_heads_first, _heads_second, _by_broadcasting, _fused])
def test_heads_lie_along_the_first_dimension_of_batched_weights(formula):
    assert found(HeadMatrices(formula), TOKENS) == {"e": 8, "q": 4, "o": 8}


class Experts(nn.Module):
    """Every expert sees every token; hidden units have the same number in all experts."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.out = nn.Linear(5, 8), nn.Linear(8, 2)
        self.up, self.down = nn.Parameter(torch.randn(3, 8, 6)), nn.Parameter(torch.randn(3, 6, 8))
        self.gate = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.e(x).flatten(0, 1)
        outputs = torch.bmm(F.gelu(torch.bmm(h.expand(3, -1, -1), self.up)), self.down)
        return self.out(torch.einsum("te,etd->td", self.gate(h).softmax(-1), outputs))


def test_hidden_units_go_from_all_experts_in_one_tensor_together():
    sizes = found(Experts(), TOKENS)
    assert sizes["e"] == 8
    assert sizes["up"] == 6


class GroupedExperts(nn.Module):
    """Tokens sorted by expert, and one product for all groups."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.e, self.out = nn.Linear(5, 8), nn.Linear(8, 2)
        self.up = nn.Parameter(torch.randn(4, 8, 16))
        self.down = nn.Parameter(torch.randn(4, 8, 16))
        self.register_buffer("ends", torch.tensor([2, 5, 7, 8], dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        h = self.e(x)
        hidden = F.silu(F.grouped_mm(h, self.up, offs=self.ends))
        return self.out(h + F.grouped_mm(hidden, self.down.transpose(1, 2), offs=self.ends))


@pytest.mark.skipif(not hasattr(F, "grouped_mm"), reason="this torch has no grouped_mm")
def test_hidden_units_go_from_experts_in_grouped_products():
    # torch takes whole runs of 16 bytes: four numbers.
    module, x = GroupedExperts(), torch.randn(8, 5)
    assert l0.unit_groups(module.eval(), x).sizes == {"e": 2, "up": 4}


class Temperature(nn.Module):
    """Attention with one number for each head."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.e, self.out = kind, nn.Linear(5, 12), nn.Linear(12, 2)
        self.qkv, self.o = nn.Linear(12, 36), nn.Linear(12, 12)
        self.t = nn.Parameter(torch.rand(4, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.e(x)
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 4, -1).permute(2, 0, 3, 1, 4)
        if self.kind == "cross-covariance":
            q, k, v = q.mT, k.mT, v.mT
            q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
            y = (((q @ k.mT) * self.t).softmax(-1) @ v).permute(0, 3, 1, 2)
        elif self.kind == "cosine":
            scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT
            y = (scores * self.t.clamp(max=4.6).exp()).softmax(-1) @ v
            y = y.transpose(1, 2)
        elif self.kind == "queries":
            y = (((q * self.t) @ k.mT).softmax(-1) @ v).transpose(1, 2)
        else:
            y = ((q @ k.mT).softmax(-1) @ v * self.t).transpose(1, 2)
        return self.out(x + self.o(y.reshape(b, n, -1)))


class FourHeads(Temperature):
    """The number of heads is an attribute, so that it can become lower."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.heads = 4

    def forward(self, x: Tensor) -> Tensor:
        x = self.e(x)
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = (q * self.t) @ k.mT if self.kind == "queries" else (q @ k.mT) * self.t
        return self.out(x + self.o((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, -1)))


@pytest.mark.parametrize("kind", ["queries", "scores"])
def test_a_temperature_for_each_head_goes_with_its_head(kind):
    module = FourHeads(kind)
    groups = l0.unit_groups(module.eval(), TOKENS)
    owned = dict(groups["qkv"].owns)
    assert groups.sizes == {"e": 12, "qkv": 4}
    assert owned["t"] == (l0.axis(0),)
    assert wrong_removals(module, (TOKENS,), groups, draws=12) == []


class PooledAttention(nn.Module):
    """Heads folded into the batch; one depthwise kernel and one norm serve all of them."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads, self.e, self.out = 3, nn.Linear(5, 12), nn.Linear(12, 2)
        self.qkv, self.o = nn.Linear(12, 36), nn.Linear(12, 12)
        self.pools = nn.ModuleList(
            nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=bias) for _ in range(3)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.e(x)
        b, n, _ = x.shape
        parts = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        pooled = []
        for part, pool, norm in zip(parts, self.pools, self.norms, strict=True):
            images = part.reshape(b * self.heads, 3, 3, -1).permute(0, 3, 1, 2)
            pooled.append(norm(pool(images).reshape(b, self.heads, -1, n).transpose(2, 3)))
        q, k, v = pooled
        y = ((q @ k.mT).softmax(-1) @ v + q).transpose(1, 2).reshape(b, n, -1)
        return self.out(x + self.o(y))


@pytest.mark.parametrize("bias", [False, True])
def test_pooled_heads_go_and_their_shared_kernels_stay(bias):
    module, x = PooledAttention(bias).eval(), torch.randn(2, 9, 5)
    groups = l0.unit_groups(module, x)
    assert groups.sizes == {"e": 12, "qkv": 3}
    named = {path for group in groups.values() for path, _ in (*group.multiplies, *group.owns)}
    assert not any(path.startswith(("pools", "norms")) for path in named)
    assert wrong_removals(module, (x,), groups, draws=12) == []


class Resampled(nn.Module):
    """Resampling of (places, units) as one image: the units' dimension stays as it is."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.function, self.last = nn.Linear(4, 6), function, nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(torch.relu(self.first(x))))


RESAMPLINGS = [
    lambda h: F.adaptive_avg_pool2d(h, (2, None)),
    lambda h: F.adaptive_avg_pool2d(h, (2, h.shape[-1])),
    lambda h: F.adaptive_max_pool2d(h, (1, h.shape[-1])),
    lambda h: F.avg_pool2d(h, (2, 1)),
    lambda h: F.max_pool2d(h, (2, 1), stride=(1, 1)),
    lambda h: F.interpolate(h, size=(8, h.shape[-1])),
    lambda h: F.interpolate(h, size=(8, h.shape[-1]), mode="bilinear"),
    lambda h: F.pad(h, (0, 0, 1, 1), mode="reflect"),
    lambda h: F.pad(h, (0, 0, 1, 0), mode="replicate"),
]


@pytest.mark.parametrize("number", range(len(RESAMPLINGS)))
def test_units_stay_apart_where_resampling_leaves_their_dimension_as_it_is(number):
    module, x = Resampled(RESAMPLINGS[number]), torch.randn(2, 3, 4, 4)
    assert found(module, x) == {"first": 6}


def test_resampling_along_the_units_is_refused_by_name():
    def function(h: Tensor) -> Tensor:
        return F.avg_pool2d(h, (1, 3), 1, (0, 1))

    with pytest.raises(
        ValueError, match=r"'first.weight': the operation '\w*avg_pool2d' runs over"
    ):
        l0.unit_groups(Resampled(function).eval(), torch.randn(2, 3, 4, 4))


class Shuffled(nn.Module):
    def __init__(self, shuffle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.shuffle = nn.Conv2d(3, 8, 1), shuffle
        self.b, self.c = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.shuffle(F.relu(self.a(x)))))


def _by_views(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


def _by_a_permutation(x: Tensor) -> Tensor:
    return x.unflatten(1, (2, -1)).permute(0, 2, 1, 3, 4).flatten(1, 2)


SHUFFLES = [_by_views, _by_a_permutation, nn.ChannelShuffle(2), lambda x: F.channel_shuffle(x, 2)]


@pytest.mark.parametrize("number", range(len(SHUFFLES)))
def test_shuffled_channels_go_in_pairs(number):
    assert found(Shuffled(SHUFFLES[number]), torch.randn(2, 3, 4, 4)) == {"a": 4}


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1), nn.Conv2d(4, 2, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.a(x.to(memory_format=torch.channels_last)))
        h = self.norm(self.b(F.max_pool2d(h.contiguous(memory_format=torch.channels_last), 2)))
        return self.c(h.to(memory_format=torch.channels_last))


def test_channels_go_in_another_memory_format():
    assert found(ChannelsLast(), torch.randn(2, 3, 8, 8)) == {"a": 6, "b": 4}
