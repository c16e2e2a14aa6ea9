"""Why should every example have its own mask? The noise of the gradient, and what it costs, three
ways.

On scikit-learn's digits, for an MLP 64-100-10 with a gate on every weight: how much a gradient
varies from key to key when a batch shares one mask, when every example has its own, and when its
pre-activations are drawn instead (local reparameterisation); against batch size, against the time
of a gradient; and what that makes of training.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import l0func as l0

LAM = 1e-5
BATCHES = (8, 32, 128, 512)
SEEDS = 3

Tensors = dict[str, Tensor]


class Noise(NamedTuple):
    """One way's gradient at one batch size."""

    variance: float
    """From key to key, summed over all weights and gates."""
    seconds: float
    """Median time of a gradient."""


class Network:
    """An MLP behind gates, and the three ways to draw them for a batch."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        mlp = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
        self.fn, self.params, self.buffers = l0.make_functional(mlp)
        self.spec = l0.gate_spec(self.params, {"*.weight": l0.element(), "*.bias": None})
        shared = l0.gated(self.fn, self.spec)
        rows = l0.per_example(shared)
        sums = l0.per_example(l0.gated(self.fn, self.spec, sampling="local_reparam"))

        def apart(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
            return lambda params, gates, buffers, key, x: run(
                params, gates, buffers, l0.random.split(key, len(x)), x
            )

        self.ways: dict[str, Callable[..., Tensor]] = {
            "one mask a batch": shared,
            "a mask an example": apart(rows),
            "local reparameterisation": apart(sums),
        }

    def gates(self, seed: int) -> Tensors:
        """Gates of which half start closed."""
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


def gradient_noise(
    network: Network, x: Tensor, y: Tensor, keys: Tensor, bar: tqdm
) -> dict[str, list[Noise]]:
    """For each way and each batch size the noise of the gradient, over keys, at one point and on
    one batch.
    """
    start = network.params, network.gates(0), network.buffers
    found: dict[str, list[Noise]] = {way: [] for way in network.ways}
    for size in BATCHES:
        draws: dict[str, list[Tensor]] = {way: [] for way in network.ways}
        times: dict[str, list[float]] = {way: [] for way in network.ways}
        for key in keys:
            # In turns, so that whatever slows the machine slows all of them.
            for way in network.ways:
                begun = time.perf_counter()
                slopes = torch.func.grad(network.loss(way), argnums=(0, 1))(
                    *start, key, x[:size], y[:size]
                )
                times[way].append(time.perf_counter() - begun)
                draws[way].append(
                    torch.cat([t.flatten() for part in slopes for t in part.values()])
                )
                bar.update()
        for way in network.ways:
            variance = torch.stack(draws[way]).var(0).sum().item()
            found[way].append(Noise(variance, statistics.median(times[way])))
    return found


class Training:
    """One way's training, which can go on for some seconds at a time."""

    def __init__(self, network: Network, way: str, seed: int, data: tuple[Tensor, ...]) -> None:
        self.network, self.data = network, data
        loss = network.loss(way)

        def of_a_batch(
            params: Tensors, gates: Tensors, buffers: Tensors, key: Tensor, x: Tensor, y: Tensor
        ) -> Tensor:
            """The loss of a random batch of 32."""
            key, order = l0.random.split(key)
            batch = (l0.random.uniform(order, 32) * len(x)).long()
            return loss(params, gates, buffers, key, x[batch], y[batch])

        adams = [l0.optimizer(torch.optim.Adam, lr=rate) for rate in (5e-3, 5e-2)]
        init, self.step = l0.training(of_a_batch, *adams, donate=True)
        self.state = init(
            l0.random.key(100 + seed), network.params, network.gates(seed), network.buffers
        )
        self.seconds = 0.0
        self.curve: list[tuple[float, float]] = []

    def run(self, seconds: float) -> None:
        """Train for some seconds on random batches of 32, and note the test loss."""
        x, y, x_test, y_test = self.data
        end = time.perf_counter() + seconds
        begun = time.perf_counter()
        while time.perf_counter() < end:
            self.state, _ = self.step(self.state, x, y)
        self.seconds += time.perf_counter() - begun
        pruned = l0.prune(self.state.params, self.state.gates, self.network.spec)
        loss = F.cross_entropy(self.network.fn(pruned, self.network.buffers, x_test), y_test)
        self.curve.append((self.seconds, loss.item()))


def draw(
    noise: dict[str, list[Noise]], curves: dict[str, list[list[tuple[float, float]]]], path: Path
) -> None:
    """Noise against batch size and against time, and test loss against time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12.5, 3.9), layout="constrained")
    for colour, way in zip(("tab:red", "tab:blue", "tab:green"), noise, strict=True):
        variances = [n.variance for n in noise[way]]
        axes[0].plot(BATCHES, variances, "o-", color=colour, label=way)
        axes[1].plot([n.seconds * 1e3 for n in noise[way]], variances, "o-", color=colour)
        at = torch.tensor(curves[way])
        seconds, losses = at[..., 0].mean(0), at[..., 1]
        axes[2].plot(seconds, losses.mean(0), color=colour)
        axes[2].fill_between(
            seconds, losses.amin(0), losses.amax(0), color=colour, alpha=0.15, linewidth=0
        )
    axes[0].set(xscale="log", yscale="log", xlabel="batch size", ylabel="variance of the gradient")
    axes[0].set_xticks(BATCHES, [str(size) for size in BATCHES])
    axes[0].minorticks_off()
    axes[0].legend(frameon=False)
    axes[1].set(
        xscale="log",
        yscale="log",
        xlabel="milliseconds a gradient",
        ylabel="variance of the gradient",
    )
    axes[2].set(
        yscale="log",
        xlabel="seconds of training, batch of 32",
        ylabel="test loss, closed gates cut",
    )
    for axis, title in zip(
        axes, ("noise from masks alone", "what it costs", f"training ({SEEDS} seeds)"), strict=True
    ):
        axis.set_title(title)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=140)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--picture", type=Path, default=Path("gradient_noise.png"), help="where the picture goes"
    )
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="training time of each way and seed"
    )
    parser.add_argument(
        "--keys", type=int, default=100, help="gradients that a variance is measured over"
    )
    arguments = parser.parse_args()
    pixels, labels = (torch.as_tensor(a) for a in load_digits(return_X_y=True))
    order = l0.random.uniform(l0.random.key(2), len(labels)).argsort()
    x, y = pixels[order].float() / 16, labels[order]
    data = x[:1437], y[:1437], x[1437:], y[1437:]

    network = Network()
    turns = 20
    with tqdm(
        total=len(BATCHES) * arguments.keys * len(network.ways) + turns * SEEDS * len(network.ways)
    ) as bar:
        noise = gradient_noise(
            network, data[0], data[1], l0.random.split(l0.random.key(1), arguments.keys), bar
        )
        trainings = {
            way: [Training(network, way, seed, data) for seed in range(SEEDS)]
            for way in network.ways
        }
        for turn in range(turns):
            for seed in range(SEEDS):
                for way in network.ways:
                    trainings[way][seed].run(arguments.seconds / turns)
                    bar.update()
            bar.set_postfix(turn=turn + 1)

    print(
        f"{'':26}"
        + "".join(f"{f'B {size}':>20}" for size in BATCHES)
        + f"{'steps':>10}{'test loss':>12}"
    )
    for way, found in noise.items():
        cells = "".join(f"{f'{n.variance:.3g} in {n.seconds * 1e3:.1f} ms':>20}" for n in found)
        ends = [t.curve[-1][1] for t in trainings[way]]
        steps = round(statistics.mean(int(t.state.step) for t in trainings[way]))
        print(f"{way:26}{cells}{steps:>10,}{statistics.mean(ends):>12.4f}")
    draw(
        noise, {way: [t.curve for t in runs] for way, runs in trainings.items()}, arguments.picture
    )
    print(f"The picture is in {arguments.picture}.")


if __name__ == "__main__":
    main()
