"""The strings aⁿbᵐ of seed_tasks.py, and an LSTM that predicts their next symbols."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STAY, LONGEST = 0.6, 12
START, A, B, END = range(4)


class NextSymbol(nn.Module):
    """An LSTM that predicts the next symbol of a string."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, batch_first=True)
        self.out = nn.Linear(6, 4)

    def forward(self, symbols: Tensor) -> Tensor:
        """Symbols, shape (B, T), to logits, shape (B, T, 4)."""
        return self.out(self.lstm(F.one_hot(symbols, 4).float())[0])


def string(generator: torch.Generator) -> Iterator[int]:
    """aⁿbᵐ: after every a, and after every b, another one follows with probability STAY."""
    yield START
    for symbol in (A, B):
        yield symbol
        while torch.rand((), generator=generator).item() < STAY:
            yield symbol
    yield END


def strings(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A batch of strings and of their next symbols, padded with END and cut to the longest."""
    padded = torch.full((32, LONGEST + 1), END)
    for row in padded:
        symbols = torch.tensor(list(string(generator))[: LONGEST + 1])
        row[: len(symbols)] = symbols
    return padded[:, :-1], padded[:, 1:]


def next_symbol_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Nats for a symbol."""
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


def entropy() -> float:
    """The least that next_symbol_loss can be: nats for a symbol of a padded string."""
    choice = -(STAY * math.log(STAY) + (1 - STAY) * math.log(1 - STAY))
    # At position t the next symbol is a choice while fewer than two of t - 1 choices ended a run.
    inside = 0.0
    for t in range(1, LONGEST):
        inside += STAY ** (t - 1) + (t - 1) * (1 - STAY) * STAY ** max(t - 2, 0)
    return choice * inside / LONGEST
