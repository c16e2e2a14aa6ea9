"""Why should every example have its own mask?

How much does a gradient vary from key to key, for an MLP 64-100-10 on scikit-learn's digits with a
gate on every weight? A batch shares one mask, every example has its own, or the pre-activations
are drawn instead (local reparameterisation). The noise is shown against batch size and against the
time of a gradient, beside the training that follows from it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import command_line as cli
import torch
from gradient_noise_networks import Network, Training
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor
from tqdm import tqdm

import l0func as l0

BATCHES = (8, 32, 128, 512)
SEEDS, TURNS = 3, 20
COLOURS = ("tab:red", "tab:blue", "tab:green")


class Noise(NamedTuple):
    """One way's gradient at one batch size."""

    variance: float
    """From key to key, summed over all weights and gates."""
    seconds: float
    """Median time of a gradient."""


def noise_at(network: Network, x: Tensor, y: Tensor, keys: Tensor, bar: tqdm) -> dict[str, Noise]:
    """The noise of each way's gradient over keys, at one point and on one batch."""
    point = network.params, network.gates(0), network.buffers
    draws: dict[str, list[Tensor]] = {way: [] for way in network.ways}
    times: dict[str, list[float]] = {way: [] for way in network.ways}
    for key in keys:
        # In turns, so that a slow moment of the machine slows all of them.
        for way in network.ways:
            start = time.perf_counter()
            slopes = torch.func.grad(network.loss(way), argnums=(0, 1))(*point, key, x, y)
            times[way].append(time.perf_counter() - start)
            of_params, of_gates = slopes
            tensors = [*of_params.values(), *of_gates.values()]
            draws[way].append(torch.cat([t.flatten() for t in tensors]))
            bar.update()
    found = {}
    for way in network.ways:
        variance = torch.stack(draws[way]).var(0).sum().item()
        found[way] = Noise(variance, statistics.median(times[way]))
    return found


def draw(noise: dict[str, list[Noise]], trainings: dict[str, list[Training]], path: Path) -> None:
    """Noise against batch size and against time, and test loss against time."""
    figure = Figure(figsize=(12.5, 3.9), layout="constrained")
    by_batch, by_time, losses = figure.subplots(1, 3)
    for colour, way in zip(COLOURS, noise, strict=True):
        variances = [n.variance for n in noise[way]]
        by_batch.plot(BATCHES, variances, "o-", color=colour, label=way)
        by_time.plot([n.seconds * 1e3 for n in noise[way]], variances, "o-", color=colour)
        curves = torch.tensor([training.curve for training in trainings[way]])
        seconds, loss = curves[..., 0].mean(0), curves[..., 1]
        losses.plot(seconds, loss.mean(0), color=colour)
        low, high = loss.amin(0), loss.amax(0)
        losses.fill_between(seconds, low, high, color=colour, alpha=0.15, linewidth=0)
    variance = "variance of the gradient"
    by_batch.set(xscale="log", yscale="log", xlabel="batch size", ylabel=variance)
    by_batch.set_xticks(BATCHES, [str(size) for size in BATCHES])
    by_batch.minorticks_off()
    by_batch.legend(frameon=False)
    by_batch.set_title("noise from masks alone")
    by_time.set(xscale="log", yscale="log", xlabel="milliseconds a gradient", ylabel=variance)
    by_time.set_title("what it costs")
    losses.set(yscale="log", xlabel="seconds of training, batch of 32")
    losses.set_ylabel("test loss, closed gates cut")
    losses.set_title(f"training ({SEEDS} seeds)")
    for axis in (by_batch, by_time, losses):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=140)


def table(noise: dict[str, list[Noise]], trainings: dict[str, list[Training]]) -> None:
    sizes = "".join(f"{f'B {size}':>20}" for size in BATCHES)
    print(f"{'':26}{sizes}{'steps':>10}{'test loss':>12}")
    for way, found in noise.items():
        texts = [f"{n.variance:.3g} in {n.seconds * 1e3:.1f} ms" for n in found]
        cells = "".join(f"{text:>20}" for text in texts)
        steps = round(statistics.mean(int(t.state.step) for t in trainings[way]))
        loss = statistics.mean(t.curve[-1][1] for t in trainings[way])
        print(f"{way:26}{cells}{steps:>10,}{loss:>12.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=cli.picture, default="gradient_noise_picture.png")
    parser.add_argument("--seconds", type=cli.positive, default=8.0, help="of each training")
    parser.add_argument("--keys", type=cli.whole(2), default=100, help="behind a variance")
    options = parser.parse_args()
    pixels, labels = (torch.as_tensor(a) for a in load_digits(return_X_y=True))
    order = l0.random.uniform(l0.random.key(2), len(labels)).argsort()
    x, y = pixels[order].float() / 16, labels[order]
    data = x[:1437], y[:1437], x[1437:], y[1437:]
    network = Network()
    keys = l0.random.split(l0.random.key(1), options.keys)
    noise: dict[str, list[Noise]] = {way: [] for way in network.ways}
    trainings: dict[str, list[Training]] = {}
    for way in network.ways:
        trainings[way] = [Training(network, way, seed, data) for seed in range(SEEDS)]
    gradients = len(BATCHES) * options.keys * len(noise)
    with tqdm(total=gradients + TURNS * SEEDS * len(noise)) as bar:
        for size in BATCHES:
            for way, found in noise_at(network, x[:size], y[:size], keys, bar).items():
                noise[way].append(found)
        for _ in range(TURNS):
            for seed in range(SEEDS):
                for way in network.ways:
                    trainings[way][seed].run(options.seconds / TURNS)
                    bar.update()
    table(noise, trainings)
    draw(noise, trainings, options.picture)
    print(f"The picture is in {options.picture}.")


if __name__ == "__main__":
    main()
