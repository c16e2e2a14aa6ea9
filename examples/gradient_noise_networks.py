"""Three ways to draw a batch's gates, and a training for each; gradient_noise.py compares them."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import l0func as l0

LAM, BATCH = 1e-5, 32

Tensors = dict[str, Tensor]
Outputs = Callable[[Tensors, Tensors, Tensors, Tensor, Tensor], Tensor]


def with_a_key_for_each_row(rows: Outputs) -> Outputs:
    """The same outputs from one key, which is split over the rows."""

    def outputs(
        params: Tensors, gates: Tensors, buffers: Tensors, key: Tensor, x: Tensor
    ) -> Tensor:
        return rows(params, gates, buffers, l0.random.split(key, len(x)), x)

    return outputs


class Network:
    """An MLP behind gates, and the three ways to draw them for a batch."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        mlp = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
        self.fn, self.params, self.buffers = l0.make_functional(mlp)
        self.spec = l0.gate_spec(self.params, {"*.weight": l0.element(), "*.bias": None})
        shared = l0.gated(self.fn, self.spec)
        sums = l0.gated(self.fn, self.spec, sampling="local_reparam")
        self.ways: dict[str, Outputs] = {
            "one mask a batch": shared,
            "a mask an example": with_a_key_for_each_row(l0.per_example(shared)),
            "local reparameterisation": with_a_key_for_each_row(l0.per_example(sums)),
        }

    def gates(self, seed: int) -> Tensors:
        """Gates; half of them start closed."""
        return l0.init_gates(l0.random.key(seed), self.spec, droprate=0.5)

    def loss(self, way: str) -> Callable[..., Tensor]:
        """Cross-entropy and penalty of a batch under masks drawn from a key."""
        outputs = self.ways[way]

        def loss(
            params: Tensors, gates: Tensors, buffers: Tensors, key: Tensor, x: Tensor, y: Tensor
        ) -> Tensor:
            penalty = l0.penalty(params, gates, self.spec, lam=LAM)
            return F.cross_entropy(outputs(params, gates, buffers, key, x), y) + penalty

        return loss


class Training:
    """One way's training, some seconds at a time."""

    def __init__(self, network: Network, way: str, seed: int, data: tuple[Tensor, ...]) -> None:
        self.network, self.data = network, data
        loss = network.loss(way)

        def batch_loss(
            params: Tensors, gates: Tensors, buffers: Tensors, key: Tensor, x: Tensor, y: Tensor
        ) -> Tensor:
            """The loss of a random batch."""
            key, order = l0.random.split(key)
            batch = (l0.random.uniform(order, BATCH) * len(x)).long()
            return loss(params, gates, buffers, key, x[batch], y[batch])

        adams = [l0.optimizer(torch.optim.Adam, lr=rate) for rate in (5e-3, 5e-2)]
        init, self.step = l0.training(batch_loss, *adams, donate=True)
        key, gates = l0.random.key(100 + seed), network.gates(seed)
        self.state = init(key, network.params, gates, network.buffers)
        self.seconds = 0.0
        self.curve: list[tuple[float, float]] = []

    def run(self, seconds: float) -> None:
        """Train for some seconds on random batches, and note the test loss."""
        x, y, x_test, y_test = self.data
        start = time.perf_counter()
        while time.perf_counter() < start + seconds:
            self.state, _ = self.step(self.state, x, y)
        self.seconds += time.perf_counter() - start
        pruned = l0.prune(self.state.params, self.state.gates, self.network.spec)
        loss = F.cross_entropy(self.network.fn(pruned, self.network.buffers, x_test), y_test)
        self.curve.append((self.seconds, loss.item()))
