"""Layers over time in rows: time is not taken for examples, nor layers for rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import l0func as l0

X = torch.sin(torch.arange(90.0)).reshape(5, 3, 6)
NO_GATES = {"*": None}


class Behind(nn.Module):
    """A recurrent layer behind a linear one; it returns its last state too."""

    def __init__(self, kind: type[nn.RNNBase], **settings) -> None:
        super().__init__()
        self.inner, self.rnn = nn.Linear(6, 6), kind(6, 4, **settings)

    def forward(self, x: Tensor):
        return self.rnn(self.inner(x))


class Outputs(Behind):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[0]


class Attention(nn.Module):
    def __init__(self, **settings) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(6, 2, **settings)

    def forward(self, x: Tensor) -> Tensor:
        return self.mha(x, x, x)[0]


KINDS = [nn.RNN, nn.GRU, nn.LSTM]
NETWORKS = {
    **{kind.__name__: lambda kind=kind, **s: Outputs(kind, **s) for kind in KINDS},
    "two layers with dropout": lambda **s: Outputs(nn.GRU, num_layers=2, dropout=0.2, **s),
    "attention": Attention,
    "encoder": lambda **s: nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, **s),
}


def wrapped(net: nn.Module, **settings):
    return l0.L0Module(net, 1e-3, per_example=True, seed=0, rules=NO_GATES, **settings)


@pytest.mark.parametrize("name", NETWORKS)
def test_rows_along_time_warn_and_the_advice_is_exact(name):
    torch.manual_seed(0)
    net = NETWORKS[name]()
    with pytest.warns(UserWarning, match=r"1 time step of 3 sequences.*in_dims=1 and out_dims=1"):
        wrapped(net)(X)
    rows = wrapped(net, in_dims=1, out_dims=1)
    if name != "two layers with dropout":
        torch.testing.assert_close(rows(X), net(X))
    turned = wrapped(NETWORKS[name](batch_first=True))
    assert turned(X.transpose(0, 1)).shape[:2] == (3, 5)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_last_state_has_its_rows_behind_layers(kind, layers):
    torch.manual_seed(0)
    net = Behind(kind, num_layers=layers, batch_first=True)
    with pytest.raises(ValueError, match=r"rows lie along dimension 1.*out_dims=\(0, 1\)"):
        wrapped(net)(X)
    out_dims = (0, (1, 1)) if kind is nn.LSTM else (0, 1)
    torch.testing.assert_close(wrapped(net, out_dims=out_dims)(X), net(X))


def test_what_forward_takes_from_a_last_state_is_an_output_as_any_other():
    class Last(Behind):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[1][-1]

    net = Last(nn.GRU, batch_first=True)
    torch.testing.assert_close(wrapped(net)(X), net(X))


def test_one_step_of_one_sequence_is_an_example():
    net = Outputs(nn.GRU, batch_first=True)
    torch.testing.assert_close(wrapped(net)(X[:, :1]), net(X[:, :1]))
