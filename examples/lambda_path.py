"""How many weights may go before accuracy does? Sixteen values of λ as one vmapped run."""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import command_line as cli
import torch
from matplotlib import pyplot as plt
from matplotlib import ticker
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

import l0func as l0

LAMS = torch.logspace(-6, -2.5, 16)
STEPS, BATCH, TRAIN = 2000, 100, 1400
Tree = dict[str, Tensor]


def digits() -> tuple[Tensor, Tensor]:
    x, y = (torch.as_tensor(a) for a in load_digits(return_X_y=True))
    order = l0.random.uniform(l0.random.key(2), len(x)).argsort()
    return x[order].float() / 16, y[order]


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


class Sweep:
    """A stack of networks with the same start and the same draws, which differ in λ only."""

    def __init__(self, lams: Tensor) -> None:
        self.lams = lams
        self.fn, self.params, self.buffers = l0.make_functional(module())
        self.spec = l0.gate_spec(self.params, {"*.weight": l0.element()})
        self.apply = l0.gated(self.fn, self.spec)
        adams = [l0.optimizer(torch.optim.Adam, lr=rate) for rate in (1e-2, 5e-2)]
        self.single = l0.training(self.loss, *adams)
        self.sweep = l0.training(self.loss, *adams, in_dims=(None, None, 0), donate=True)

    def loss(
        self,
        params: Tree,
        gates: Tree,
        buffers: Tree,
        key: Tensor,
        x: Tensor,
        y: Tensor,
        lam: Tensor,
    ) -> Tensor:
        value = F.cross_entropy(self.apply(params, gates, buffers, key, x), y)
        return value + lam * l0.expected_l0(gates, self.spec)

    def start(self) -> l0.TrainState:
        gates = l0.init_gates(l0.random.key(0), self.spec, droprate=0.2)
        return self.single.init(l0.random.key(1), self.params, gates, self.buffers)

    def trained(self, steps: int, x: Tensor, y: Tensor) -> l0.TrainState:
        states = l0.stack([self.start()] * len(self.lams))
        for step in trange(steps, desc=f"{len(self.lams)} values of λ"):
            rows = batch(step)
            states, _ = self.sweep.step(states, x[rows], y[rows], self.lams)
        return states

    def trained_alone(self, steps: int, member: int, x: Tensor, y: Tensor) -> l0.TrainState:
        state = self.start()
        for step in range(steps):
            rows = batch(step)
            state, _ = self.single.step(state, x[rows], y[rows], self.lams[member])
        return state

    def measured(self, state: l0.TrainState, x: Tensor, y: Tensor) -> tuple[float, float]:
        """Density of the weights under the Louizos estimator, and accuracy."""
        pruned = l0.prune(state.params, state.gates, self.spec)
        weights = [t for path, t in pruned.items() if path.endswith("weight")]
        density = sum(int((t != 0).sum()) for t in weights) / sum(t.numel() for t in weights)
        return density, float((self.fn(pruned, self.buffers, x).argmax(1) == y).float().mean())


def batch(step: int) -> Tensor:
    epoch, within = divmod(step, TRAIN // BATCH)
    order = l0.random.uniform(l0.random.fold_in(l0.random.key(3), epoch), TRAIN).argsort()
    return order[BATCH * within : BATCH * (within + 1)]


def draw(points: list[tuple[float, float]], file: Path) -> None:
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    # Where λ closed everything there is no point on a logarithmic axis.
    shown = [i for i, (density, _) in enumerate(points) if density > 0]
    density = [points[i][0] for i in shown]
    accuracy = [points[i][1] for i in shown]
    colour = [float(LAMS[i].log10()) for i in shown]
    axes.plot(density, accuracy, color="0.8", zorder=0)
    dots = axes.scatter(density, accuracy, c=colour, cmap="viridis")
    axes.set(
        xscale="log",
        xlabel="weights left",
        ylabel="accuracy on unseen digits",
        ylim=(min(accuracy) - 0.02, 1.0),
    )
    axes.set_title(
        f"{len(points)} values of λ, one run; {len(points) - len(shown)} closed every gate"
    )
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=None))
    figure.colorbar(dots, label="log₁₀ λ")
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=cli.whole(1), default=STEPS, help="fewer claim nothing")
    parser.add_argument("--picture", type=cli.picture, default="lambda_path_picture.png")
    options = parser.parse_args()
    x, y = digits()
    sweep = Sweep(LAMS)
    states = sweep.trained(options.steps, x[:TRAIN], y[:TRAIN])
    if bad := l0.diverged(states):
        print(f"members {bad} hold a NaN; the others went on")
    members = l0.unstack(states)
    points = [sweep.measured(member, x[TRAIN:], y[TRAIN:]) for member in members]
    for lam, (density, accuracy) in zip(LAMS, points, strict=True):
        print(f"λ {lam:.1e}   {density:7.2%} of the weights   {accuracy:.1%}")
    draw(points, options.picture)
    print(f"The picture is in {options.picture}.")
    alone = sweep.trained_alone(min(options.steps, 50), 5, x[:TRAIN], y[:TRAIN])
    beside = l0.unstack(sweep.trained(min(options.steps, 50), x[:TRAIN], y[:TRAIN]))[5]
    for name, weight in alone.params.items():
        torch.testing.assert_close(beside.params[name], weight, rtol=1e-3, atol=1e-4)
    if options.steps >= STEPS:
        assert points[0][0] > points[-1][0], "more λ, fewer weights"


if __name__ == "__main__":
    main()
