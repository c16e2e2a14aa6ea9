"""How many weights does a task need?

Four small tasks, a gate on every weight, nothing but L0Module and torch.optim: a linear layer
learns to keep one input, all inputs, or the identity; an LSTM learns the strings aⁿbᵐ. What is
left open at the end measures the task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import l0func as l0

INPUTS, STAY, LONGEST = 8, 0.6, 12
START, A, B, END = range(4)


Batches = Callable[[torch.Generator], tuple[Tensor, Tensor]]


class Task(NamedTuple):
    """A network, batches for it, and its loss."""

    name: str
    module: nn.Module
    batch: Batches
    loss: Callable[[Tensor, Tensor], Tensor]
    lam: float
    steps: int


class NextSymbol(nn.Module):
    """An LSTM that predicts the next symbol of a string."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, batch_first=True)
        self.out = nn.Linear(6, 4)

    def forward(self, symbols: Tensor) -> Tensor:
        """Symbols, shape (B, T), to logits, shape (B, T, 4)."""
        return self.out(self.lstm(F.one_hot(symbols, 4).float())[0])


def linear(target: Callable[[Tensor], Tensor]) -> Batches:
    """Batches of normal inputs and their targets."""

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.randn(32, INPUTS, generator=generator)
        return x, target(x)

    return batch


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


def train(task: Task) -> tuple[l0.L0Module, float]:
    """The trained network and the mean loss of its fixed gates on fresh data."""
    torch.manual_seed(0)
    net = l0.L0Module(task.module, task.lam, droprate_init=0.2, per_example=True, seed=0)
    settings = [
        {"params": list(net.weights().values()), "lr": 0.02},
        {"params": list(net.gates().values()), "lr": 0.05},
    ]
    optimizer = torch.optim.Adam(settings)
    generator = torch.Generator().manual_seed(0)
    bar = tqdm(range(task.steps), desc=f"{task.name:10}")
    for step in bar:
        x, y = task.batch(generator)
        loss = task.loss(net(x), y)
        (loss + net.regularization()).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 49:
            bar.set_postfix(loss=f"{loss.item():.4f}", weights=f"{net.count_l0().item():.1f}")
    net.eval()
    with torch.no_grad():
        batches = [task.batch(generator) for _ in range(50)]
        losses = [task.loss(net(x), y) for x, y in batches]
    return net, torch.stack(losses).mean().item()


def total(x: Tensor) -> Tensor:
    return x.sum(1, keepdim=True)


def main() -> None:
    tasks = [
        Task("one input", nn.Linear(INPUTS, 1), linear(lambda x: x[:, :1]), F.mse_loss, 1e-2, 600),
        Task("all inputs", nn.Linear(INPUTS, 1), linear(total), F.mse_loss, 1e-2, 600),
        Task("identity", nn.Linear(INPUTS, INPUTS), linear(lambda x: x), F.mse_loss, 1e-3, 600),
        Task("aⁿbᵐ", NextSymbol(), strings, next_symbol_loss, 1e-3, 800),
    ]
    results = {task.name: (task, *train(task)) for task in tasks}
    print(f"\n{'task':12}{'weights':>9}{'expected':>10}{'needed':>8}{'loss':>9}")
    needed = {}
    for name, (_, net, loss) in results.items():
        row = net.summary().total
        needed[name] = row.realised_open
        counts = f"{row.entries:9}{row.expected_open:10.1f}{row.realised_open:8}"
        print(f"{name:12}{counts}{loss:9.4f}")
    print(f"(the least possible loss of aⁿbᵐ is {entropy():.4f})")
    assert (needed["one input"], needed["all inputs"], needed["identity"]) == (1, INPUTS, INPUTS)
    assert all(results[name][2] < 1e-2 for name in ("one input", "all inputs", "identity"))
    assert needed["aⁿbᵐ"] <= 0.25 * results["aⁿbᵐ"][1].summary().total.entries
    assert results["aⁿbᵐ"][2] < 1.1 * entropy()


if __name__ == "__main__":
    main()
