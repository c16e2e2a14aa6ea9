"""How many weights does a task need?

Four small tasks, a gate on every weight, nothing but L0Module and torch.optim: a linear layer
learns to keep one input, all inputs, or the identity; an LSTM learns the strings aⁿbᵐ. The number
of open gates at the end measures the task.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

import command_line as cli
import torch
from seed_strings import NextSymbol, entropy, next_symbol_loss, strings
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import l0func as l0

INPUTS = 8


Batches = Callable[[torch.Generator], tuple[Tensor, Tensor]]


class Task(NamedTuple):
    """A network, batches for it, and its loss."""

    name: str
    module: nn.Module
    batch: Batches
    loss: Callable[[Tensor, Tensor], Tensor]
    lam: float
    steps: int


def linear(target: Callable[[Tensor], Tensor]) -> Batches:
    """Batches of normal inputs and their targets."""

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.randn(32, INPUTS, generator=generator)
        return x, target(x)

    return batch


def train(task: Task, share: float) -> tuple[l0.L0Module, float]:
    """The trained network and the mean loss of its fixed gates on fresh data."""
    torch.manual_seed(0)
    net = l0.L0Module(task.module, task.lam, droprate_init=0.2, per_example=True, seed=0)
    settings = [
        {"params": list(net.weights().values()), "lr": 0.02},
        {"params": list(net.gates().values()), "lr": 0.05},
    ]
    optimizer = torch.optim.Adam(settings)
    generator = torch.Generator().manual_seed(0)
    bar = tqdm(range(max(1, round(share * task.steps))), desc=f"{task.name:10}")
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--share", type=cli.positive, default=1.0, help="of all steps; less claims nothing"
    )
    share = parser.parse_args().share
    tasks = [
        Task("one input", nn.Linear(INPUTS, 1), linear(lambda x: x[:, :1]), F.mse_loss, 1e-2, 600),
        Task("all inputs", nn.Linear(INPUTS, 1), linear(total), F.mse_loss, 1e-2, 600),
        Task("identity", nn.Linear(INPUTS, INPUTS), linear(lambda x: x), F.mse_loss, 1e-3, 600),
        Task("aⁿbᵐ", NextSymbol(), strings, next_symbol_loss, 1e-3, 800),
    ]
    results = {task.name: (task, *train(task, share)) for task in tasks}
    print(f"\n{'task':12}{'weights':>9}{'expected':>10}{'needed':>8}{'loss':>9}")
    needed = {}
    for name, (_, net, loss) in results.items():
        row = net.summary().total
        needed[name] = row.realised_open
        counts = f"{row.entries:9}{row.expected_open:10.1f}{row.realised_open:8}"
        print(f"{name:12}{counts}{loss:9.4f}")
    print(f"(the least possible loss of aⁿbᵐ is {entropy():.4f})")
    if share >= 1.0:
        check(needed, results)


def check(needed: dict[str, int], results: dict[str, tuple[Task, l0.L0Module, float]]) -> None:
    """The claims of the full run."""
    assert (needed["one input"], needed["all inputs"], needed["identity"]) == (1, INPUTS, INPUTS)
    assert all(results[name][2] < 1e-2 for name in ("one input", "all inputs", "identity"))
    assert needed["aⁿbᵐ"] <= 0.25 * results["aⁿbᵐ"][1].summary().total.entries
    assert results["aⁿbᵐ"][2] < 1.1 * entropy()


if __name__ == "__main__":
    main()
