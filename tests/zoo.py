"""Modules that every law is tried on, each with a batch of inputs and where its rows are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TwoInputs(nn.Module):
    """Several inputs, a keyword, a dict of outputs, a frozen parameter and one in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(3, 4)
        self.right = nn.Linear(2, 4, bias=False)
        self.scale = nn.Parameter(torch.ones(4, dtype=torch.float64))
        self.left.bias.requires_grad_(False)

    def forward(
        self, a: Tensor, pair: tuple[Tensor, float], *, gain: float = 1.0
    ) -> dict[str, Any]:
        h = torch.tanh(self.left(a) + pair[1] * self.right(pair[0])) * gain
        return {"h": h, "both": (h * self.scale, None)}


class Tied(nn.Module):
    """An autoencoder whose decoder is the encoder's weight, and a submodule that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(4, 4)
        self.decode = nn.Linear(4, 4)
        self.decode.weight = self.encode.weight
        self.again = self.decode

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.decode(torch.relu(self.encode(x))))


class Residual(nn.Module):
    """A convolutional block with BatchNorm and a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.conv2, self.bn2 = nn.Conv2d(3, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class Recurrent(nn.Module):
    """A recurrent layer and a readout."""

    def __init__(self, kind: type[nn.RNNBase], **settings: Any) -> None:
        super().__init__()
        self.rnn = kind(3, 4, batch_first=True, **settings)
        self.out = nn.Linear(8 if settings.get("bidirectional") else 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0])


class Attention(nn.Module):
    """Self-attention, with a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        return self.mha(x, x, x, attn_mask=mask, need_weights=False)[0]


class Words(nn.Module):
    """Token embeddings, a mean and a readout."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4, padding_idx=0)
        self.norm = nn.LayerNorm(4)
        self.out = nn.Linear(4, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.norm(self.embed(tokens)).mean(1))


class Bags(nn.Module):
    """Bags of tokens, some of them padding, and a recurrent cell."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(7, 4, padding_idx=0)
        self.cell = nn.RNNCell(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.cell(self.bag(tokens))


class Functions(nn.Module):
    """Dropout by function call, and noise, as a module's author may write them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = F.dropout(self.fc(x), 0.3, training=self.training)
        return h + 0.1 * torch.randn(h.shape, device=h.device) if self.training else h


@dataclass(frozen=True)
class Case:
    """A module and a batch of five rows for it."""

    name: str
    module: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    in_dims: Any = 0
    out_dims: Any = 0
    train: bool = False
    rows_alone: bool = True

    def __repr__(self) -> str:
        return self.name

    def build(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.module().train(self.train)

    def batch(self) -> tuple[Any, ...]:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return self.inputs()


def _x(*shape: int) -> Callable[[], tuple[Tensor]]:
    return lambda: (torch.randn(5, *shape),)


def _cnn() -> nn.Module:
    conv = nn.Conv2d(1, 3, 3)
    return nn.Sequential(conv, nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


CASES = [
    Case("mlp", _mlp, _x(4)),
    Case(
        "mlp_dropout",
        lambda: nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.4), nn.Linear(6, 3)),
        _x(4),
        train=True,
    ),
    Case("functions", Functions, _x(3), train=True),
    Case("cnn", _cnn, _x(1, 6, 6)),
    Case("cnn_train", _cnn, _x(1, 6, 6), train=True, rows_alone=False),
    Case("residual", Residual, _x(2, 4, 4)),
    Case("residual_train", Residual, _x(2, 4, 4), train=True, rows_alone=False),
    Case(
        "conv_dropout",
        lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.Dropout1d(0.5)),
        _x(2, 6),
        train=True,
    ),
    Case("lstm", lambda: Recurrent(nn.LSTM, num_layers=2), _x(3, 3)),
    Case(
        "lstm_dropout", lambda: Recurrent(nn.LSTM, num_layers=2, dropout=0.5), _x(3, 3), train=True
    ),
    Case("gru", lambda: Recurrent(nn.GRU, bidirectional=True), _x(3, 3)),
    Case("rnn", lambda: Recurrent(nn.RNN), _x(3, 3)),
    Case(
        "lstm_time_first",
        lambda: nn.LSTM(3, 4),
        lambda: (torch.randn(3, 5, 3),),
        in_dims=1,
        out_dims=(1, (1, 1)),
    ),
    Case("lstm_cell", lambda: nn.LSTMCell(3, 4), _x(3)),
    Case("attention", Attention, _x(3, 4)),
    Case(
        "encoder",
        lambda: nn.TransformerEncoderLayer(4, 2, 6, batch_first=True),
        _x(3, 4),
        train=True,
    ),
    Case("encoder_eval", lambda: nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), _x(3, 4)),
    Case("words", Words, lambda: (torch.randint(0, 7, (5, 4)),)),
    Case("bags", Bags, lambda: (torch.randint(0, 7, (5, 4)),)),
    Case("tied", Tied, _x(4)),
    Case("two_inputs", TwoInputs, lambda: (torch.randn(5, 3), (torch.randn(5, 2), 0.5))),
    Case(
        "norms",
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True)
        ),
        _x(2, 5, 5),
    ),
    Case("bilinear", lambda: nn.Bilinear(3, 2, 4), lambda: (torch.randn(5, 3), torch.randn(5, 2))),
    Case("weight_norm", lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), _x(3)),
]
BY_NAME = {case.name: case for case in CASES}
