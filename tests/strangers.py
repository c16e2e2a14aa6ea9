"""Architectures that are not in the zoo, as their authors write them; each with a batch of inputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import Case


class UNet(nn.Module):
    """Two levels, transposed convolutions up, skips by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = self.double(3, 6), self.double(6, 8)
        self.middle = self.double(8, 10)
        self.up2, self.up1 = (
            nn.ConvTranspose2d(10, 7, 2, stride=2),
            nn.ConvTranspose2d(8, 5, 2, stride=2),
        )
        self.join2, self.join1 = self.double(15, 8), self.double(11, 6)
        self.head = nn.Conv2d(6, 2, 1)

    @staticmethod
    def double(into: int, out: int) -> nn.Module:
        convs = (nn.Conv2d(into, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1))
        return nn.Sequential(
            convs[0],
            nn.BatchNorm2d(out),
            nn.ReLU(True),
            convs[1],
            nn.BatchNorm2d(out),
            nn.ReLU(True),
        )

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        y = self.up2(self.middle(F.max_pool2d(b, 2)))
        y = self.up1(self.join2(torch.cat([b, y], dim=1)))
        return self.head(self.join1(torch.cat([a, y], dim=1)))


class Inception(nn.Module):
    """Four branches side by side, one of them pooled, read by the next block and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.one = nn.Conv2d(6, 4, 1)
        self.three = nn.Sequential(nn.Conv2d(6, 3, 1), nn.ReLU(), nn.Conv2d(3, 5, 3, padding=1))
        self.five = nn.Sequential(nn.Conv2d(6, 2, 1), nn.ReLU(), nn.Conv2d(2, 3, 5, padding=2))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(6, 4, 1))
        self.norm = nn.BatchNorm2d(16)
        self.out = nn.Linear(16 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(
            self.norm(torch.cat([self.one(x), self.three(x), self.five(x), self.pooled(x)], 1))
        )
        return self.out(torch.flatten(F.adaptive_avg_pool2d(x, 2), 1))


class Separable(nn.Module):
    """Depthwise-separable convolutions with inverted residuals and a squeeze-and-excite."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.Hardswish()
        )
        self.expand = nn.Sequential(
            nn.Conv2d(6, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU6()
        )
        self.depthwise = nn.Sequential(
            nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12), nn.SiLU()
        )
        self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.project = nn.Sequential(nn.Conv2d(12, 6, 1, bias=False), nn.BatchNorm2d(6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.depthwise(self.expand(x))
        y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        return self.head((x + self.project(y)).mean((2, 3)))


class ResNet(nn.Module):
    """Two stages of two residual blocks, with a projection where the width changes."""

    class Block(nn.Module):
        def __init__(self, into: int, out: int, stride: int) -> None:
            super().__init__()
            self.conv1, self.bn1 = (
                nn.Conv2d(into, out, 3, stride, 1, bias=False),
                nn.BatchNorm2d(out),
            )
            self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
            project = nn.Sequential(
                nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )
            self.shortcut = nn.Identity() if into == out else project

        def forward(self, x: Tensor) -> Tensor:
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            return F.relu(y + self.shortcut(x))

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()
        )
        self.stages = nn.Sequential(
            self.Block(6, 6, 1), self.Block(6, 6, 1), self.Block(6, 8, 2), self.Block(8, 8, 1)
        )
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stages(self.stem(x)).mean((-2, -1)))


class ResNeXt(nn.Module):
    """A grouped convolution and GroupNorms between pointwise ones."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm1 = nn.Conv2d(3, 12, 1), nn.GroupNorm(4, 12)
        self.grouped, self.norm2 = nn.Conv2d(12, 8, 3, padding=1, groups=4), nn.GroupNorm(4, 8)
        self.leave = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(F.gelu(self.norm2(self.grouped(F.gelu(self.norm1(self.enter(x)))))))


class DenseNet(nn.Module):
    """Every layer reads all that came before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(4 + 3 * i), nn.ReLU(), nn.Conv2d(4 + 3 * i, 3, 3, padding=1)
            )
            for i in range(3)
        )
        self.stem, self.out = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(13, 2)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return self.out(torch.cat(features, 1).amax((2, 3)))


class SelfAttention(nn.Module):
    """Attention of plain Linears that reads the number of heads from attributes, and masks by a
    buffer.
    """

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
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(self.attention_head_size)
        scores = scores.masked_fill(
            self.causal[:, :, : x.shape[1], : x.shape[1]] == 0, float("-inf")
        )
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
        x = torch.cat([self.first.expand(len(tokens), -1, -1), self.words(tokens)], dim=1)
        x = x + self.positions[:, : x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class GroupedQueries(nn.Module):
    """Four query heads that share two heads of keys and values, by scaled_dot_product_attention."""

    def __init__(self) -> None:
        super().__init__()
        self.n_heads, self.n_kv, self.size = 4, 2, 3
        self.q, self.o = nn.Linear(6, 12, bias=False), nn.Linear(12, 6, bias=False)
        self.kv = nn.Linear(6, 12, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q = self.q(x).view(n, length, self.n_heads, self.size).transpose(1, 2)
        k, v = self.kv(x).view(n, length, 2, self.n_kv, self.size).unbind(2)
        k, v = (
            t.transpose(1, 2).repeat_interleave(self.n_heads // self.n_kv, dim=1) for t in (k, v)
        )
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
    """A recurrent layer whose final state is what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden_size = 6
        self.lstm, self.out = nn.LSTM(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        zero = torch.zeros(1, x.shape[1], self.hidden_size, dtype=x.dtype)
        _, (h, _) = self.lstm(x, (zero, zero))
        return self.out(h[-1])


class Folded(nn.Module):
    """A hidden layer that is reshaped into an image and back, by sizes in an attribute and in an
    Unflatten.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shape = (5, 2, 2)
        self.enter, self.conv, self.leave = nn.Linear(4, 20), nn.Conv2d(5, 6, 2), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(
            torch.relu(self.conv(torch.relu(self.enter(x)).view(-1, *self.shape))).flatten(1)
        )


class Normed(nn.Module):
    """Token embeddings into a residual stream under RMSNorm, with gated feed-forward layers."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.RMSNorm(width, eps=0.1), nn.RMSNorm(width)
            self.q, self.o = nn.Linear(width, 6), nn.Linear(6, width)
            self.up, self.gate, self.down = (
                nn.Linear(width, 9),
                nn.Linear(width, 9),
                nn.Linear(9, width),
            )

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


class Pixels(nn.Module):
    """Channel attention, a shuffle of pixels, a gated recurrent cell over rows, and weights that
    forward centres.
    """

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.shuffle, self.mix = (
            nn.Conv2d(2, 16, 3, padding=1),
            nn.PixelShuffle(2),
            nn.Conv2d(4, 6, 1),
        )
        self.squeeze, self.centred = (
            nn.Sequential(nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 6)),
            nn.Conv2d(6, 5, 1),
        )
        self.cell, self.out = nn.GRUCell(5, 7), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(torch.relu(self.shuffle(self.enter(x))))
        x = (
            x
            * torch.sigmoid(self.squeeze(x.mean((2, 3))) + self.squeeze(x.amax((2, 3))))[
                :, :, None, None
            ]
        )
        weight = self.centred.weight - self.centred.weight.mean((1, 2, 3), keepdim=True)
        rows = F.conv2d(x, weight, self.centred.bias).mean(3)
        h = x.new_zeros(len(x), self.cell.hidden_size)
        for row in rows.unbind(2):
            h = self.cell(row, h)
        return self.out(h)


def images(*shape: int):
    return lambda: (torch.randn(3, *shape),)


def tokens(high: int, length: int):
    return lambda: (torch.randint(0, high, (3, length)),)


STRANGERS = [
    Case("unet", UNet, images(3, 8, 8)),
    Case("inception", Inception, images(3, 6, 6)),
    Case("separable", Separable, images(3, 8, 8)),
    Case("resnet", ResNet, images(3, 8, 8)),
    Case("resnext", ResNeXt, images(3, 5, 5)),
    Case("densenet", DenseNet, images(2, 5, 5)),
    Case("encoder_of_linears", Encoder, tokens(11, 5)),
    Case("grouped_queries", GroupedQueries, images(4, 6)),
    Case("tagger_lstm", lambda: Tagger(nn.LSTM), tokens(9, 4)),
    Case("tagger_gru", lambda: Tagger(nn.GRU), tokens(9, 4)),
    Case("last_state", LastState, lambda: (torch.randn(4, 3, 3),)),
    Case("padded", Padded, lambda: (torch.randn(4, 3, 8),)),
    Case("pixels", Pixels, images(2, 3, 3)),
    Case("folded", Folded, images(4)),
    *([Case("rms_norms", Normed, tokens(11, 5))] if hasattr(nn, "RMSNorm") else []),
    Case(
        "without_affine",
        lambda: nn.Sequential(
            nn.Conv2d(2, 8, 3),
            nn.GroupNorm(4, 8, affine=False),
            nn.Conv2d(8, 6, 1),
            nn.BatchNorm2d(6, affine=False),
            nn.Conv2d(6, 2, 1),
        ),
        images(2, 5, 5),
    ),
    Case(
        "unflattened",
        lambda: nn.Sequential(
            nn.Linear(4, 20),
            nn.Unflatten(1, (5, 2, 2)),
            nn.ReLU(),
            nn.Conv2d(5, 4, 2),
            nn.Flatten(),
            nn.Linear(4, 2),
        ),
        images(4),
    ),
    Case(
        "transformer",
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 4, 12, batch_first=True), 2, enable_nested_tensor=False
        ),
        images(4, 8),
    ),
    Case(
        "projected_lstm",
        lambda: nn.Sequential(
            nn.Linear(3, 5),
            nn.ReLU(),
            First(nn.LSTM(5, 6, proj_size=4, num_layers=2)),
            nn.Linear(4, 2),
        ),
        images(4, 3),
    ),
    Case(
        "conv1d",
        lambda: nn.Sequential(
            nn.Conv1d(2, 6, 3),
            nn.PReLU(6),
            nn.InstanceNorm1d(6, affine=True),
            nn.ConvTranspose1d(6, 4, 3),
            nn.Tanh(),
            nn.Upsample(scale_factor=2),
            nn.ReplicationPad1d(1),
            nn.Conv1d(4, 3, 3, padding_mode="circular", padding=1),
        ),
        images(2, 8),
    ),
]


class First(nn.Module):
    """The first output of a module that has several."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)[0]
