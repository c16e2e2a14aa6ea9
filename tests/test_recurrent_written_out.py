"""Recurrent layers in plain operations equal torch's own, and every transform follows them."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.overrides import TorchFunctionMode

from l0func.functions import recurrent

T, N, I, H = 4, 2, 3, 4  # noqa: E741
close = torch.testing.assert_close


class Kind(NamedTuple):
    """One of torch's recurrent functions: its name, the rows of its weights by H, its projection."""

    name: str
    gates: int
    projection: int = 0


KINDS = [Kind("lstm", 4), Kind("lstm", 4, projection=2), Kind("gru", 3), Kind("rnn_tanh", 1), Kind("rnn_relu", 1)]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda k: f"{k.name}{k.projection or ''}")


def untouched(x: Tensor, p: float) -> Tensor:
    raise AssertionError("dropout was drawn where none is active")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def weights(kind: Kind, layers: int, directions: int, biases: bool) -> list[Tensor]:
    """The flat weights of a network, drawn."""
    rows, out = kind.gates * H, kind.projection or H
    shapes: list[tuple[int, ...]] = []
    for layer in range(layers):
        one = [(rows, out * directions if layer else I), (rows, out), *([(rows,), (rows,)] if biases else [])]
        shapes += (one + ([(out, H)] if kind.projection else [])) * directions
    return [draw(*shape, seed=i) for i, shape in enumerate(shapes)]


def initial(kind: Kind, count: int) -> Any:
    h, c = draw(count, N, kind.projection or H, seed=90), draw(count, N, H, seed=91)
    return (h, c) if kind.name == "lstm" else h


def written_out(kind: Kind, *args: Any, dropout: Any = untouched) -> tuple[Tensor, ...]:
    return getattr(recurrent, kind.name)(*args, dropout=dropout)
