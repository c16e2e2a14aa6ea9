"""How complex are data? The open gates that one network needs to fit each of several data sets,
with intervals over seeds.

At one λ for all a network gives up on data that are too hard, closes everything, and they look
simple. So every member of the sweep has its own λ, which rises while its running cross-entropy is
below a fixed level and falls while it is above. The measure is the least expected L0 at which the
running cross-entropy was at that level: a number for this architecture, this optimizer and this
level, and nothing else. Every seed has its own examples, weights and draws. Biases have no gates
and are free.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")

import torch
from complexity_tasks import LSTM, SAME, Data, Tasks, drawn, image_tasks, images, mlp, string_tasks
from matplotlib import pyplot as plt
from matplotlib import ticker
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

import l0func as l0

HERE = Path(__file__).parent
LEVEL = 0.1  # nats
LAMS, SPEED = (1e-6, 1.0), 0.2
STEPS, SEEDS, BATCH = 4000, 5, 64
# From less to more: what the full run asserts.
ORDERS = (
    ("0 or 1", "4 or 9", "even or odd", "ten digits", "ten, blurred", "ten, labels shuffled"),
    ("ends with a", "starts with a", "palindromes"),
    ("balanced brackets", "32 random strings"),
    ("balanced brackets", "even number of a"),
)
Tree = dict[str, Tensor]


class Found(NamedTuple):
    """What one task needs; every tensor has an entry for each seed."""

    name: str
    needed: Tensor
    pruned: Tensor
    entropy: Tensor
    reached: Tensor

    def interval(self) -> list[float]:
        """Geometric mean, and its 95 % interval: Student's t for the logarithms."""
        logs = self.needed.log()
        half = float(stats.t.ppf(0.975, len(logs) - 1)) * logs.std() / len(logs) ** 0.5
        return [(logs.mean() + shift).exp().item() for shift in (0.0, -half, half)]

    def above(self, other: Found) -> float:
        """How sure it is that this task needs more: 1 - p of Welch's one-sided t test."""
        pair = (other.needed.log(), self.needed.log())
        moments = [
            number
            for logs in pair
            for number in (logs.mean().item(), logs.std().item(), len(logs))
        ]
        return 1 - stats.ttest_ind_from_stats(*moments, equal_var=False, alternative="less").pvalue


def measured(
    title: str, module: Callable[[], nn.Module], tasks: Tasks, steps: int, seeds: int
) -> list[Found]:
    """All tasks and seeds, as one vmapped run; what needs least comes first."""
    fn, params, _ = l0.make_functional(module())
    spec = l0.gate_spec(params, {"*weight*": l0.element()})
    apply = l0.gated(fn, spec)

    def loss(
        params: Tree, gates: Tree, buffers: Tree, key: Tensor, x: Tensor, y: Tensor, lam: Tensor
    ) -> tuple[Tensor, Tree]:
        entropy = F.cross_entropy(apply(params, gates, {}, key, x), y)
        count = l0.expected_l0(gates, spec)
        return entropy + lam * count, {
            "entropy": buffers["entropy"].lerp(entropy.detach(), 0.03),
            "count": count.detach(),
        }

    later = max(1, steps // 2)
    adams = [
        l0.optimizer(torch.optim.Adam, lr=l0.schedules.linear(rate, rate / 20, later, later))
        for rate in (1e-2, 5e-2)
    ]
    init, sweep = (
        l0.training(loss, *adams).init,
        l0.training(loss, *adams, in_dims=(0, 0, 0), donate=True),
    )

    def start(member: int, data: Callable[[Tensor], Data]) -> tuple[l0.TrainState, Data]:
        torch.manual_seed(member)
        own, chosen, training = l0.random.split(l0.random.key(member), 3)
        gates, running = (
            l0.init_gates(own, spec, droprate=0.02),
            {"entropy": torch.tensor(1.0), "count": torch.tensor(0.0)},
        )
        return init(training, l0.make_functional(module())[1], gates, running), data(chosen)

    starts, data = zip(
        *itertools.starmap(start, enumerate(of for of in tasks.values() for _ in range(seeds))),
        strict=True,
    )
    states, (x, y) = l0.stack(starts), (torch.stack(of) for of in zip(*data, strict=True))
    lam, least, best = (
        torch.full((len(x),), LAMS[0]),
        torch.full((len(x),), torch.inf),
        (states.params, states.gates),
    )
    for step in trange(steps, desc=title):
        rows = drawn(l0.random.fold_in(l0.random.key(0), step), BATCH, torch.arange(x.shape[1]))
        states, _ = sweep.step(states, x[:, rows], y[:, rows], lam)
        entropy, count = states.buffers["entropy"], states.buffers["count"]
        lam = (lam * (SPEED * (LEVEL - entropy)).exp()).clamp(*LAMS)
        fits = entropy <= LEVEL
        # A member that has never fitted keeps what it has now.
        better = torch.where(fits, count < least, least.isinf())
        least = torch.where(fits, count.minimum(least), least)
        best = tuple(
            chosen(better, *of) for of in zip((states.params, states.gates), best, strict=True)
        )
    ends = [end(fn, spec, *of) for of in zip(*map(l0.unstack, best), x, y, strict=True)]
    columns = (
        *torch.tensor(ends).view(len(tasks), seeds, 3).unbind(2),
        least.isfinite().view(-1, seeds),
    )
    return sorted(itertools.starmap(Found, zip(tasks, *columns, strict=True)), key=Found.interval)


def chosen(where: Tensor, new: Tree, old: Tree) -> Tree:
    return {
        name: torch.where(where.view(-1, *[1] * (t.dim() - 1)), t, old[name])
        for name, t in new.items()
    }


def end(
    fn: Callable[..., Tensor], spec: l0.GateSpec, params: Tree, gates: Tree, x: Tensor, y: Tensor
) -> tuple[float, ...]:
    """Expected open gates; weights that the Louizos estimator leaves, and the cross-entropy of
    those on all examples.
    """
    left = sum(int((mask != 0).sum()) for mask in l0.deterministic_masks(gates, spec).values())
    entropy = F.cross_entropy(fn(l0.prune(params, gates, spec), {}, x), y)
    return l0.expected_l0(gates, spec).item(), left, entropy.item()


def sure(one: Found, last: Found) -> str:
    above = one.above(last)
    return f"{above:.1%}" if above < 0.9995 else "> 99.9%"


def table(title: str, ranking: list[Found]) -> None:
    print(
        f"\n{title:22}{'needed':>8}{'95 % interval':>18}{'pruned':>8}{'nats':>7}{'reached':>9}{'above the last':>16}"
    )
    for last, one in zip((None, *ranking), ranking, strict=False):
        mean, low, high = one.interval()
        numbers = (
            f"{mean:8.1f}{low:10.1f} –{high:6.1f}{one.pruned.mean():8.1f}{one.entropy.mean():7.3f}"
        )
        reached = f"{int(one.reached.sum())} of {len(one.reached)}"
        print(
            f"{one.name:22}{numbers}{reached:>9}{'' if last is None else f'{sure(one, last):>16}'}"
        )


def draw(found: dict[str, list[Found]], file: Path) -> None:
    figure, panels = plt.subplots(1, len(found), figsize=(12, 4.8), layout="constrained")
    for axes, (title, ranking) in zip(panels, found.items(), strict=True):
        margin = partial(
            axes.text, 1.01, transform=axes.get_yaxis_transform(), va="center", fontsize=8
        )
        for i, one in enumerate(ranking):
            mean, low, high = one.interval()
            colour = (
                "tab:red" if not one.reached.all() else "0.5" if one.name in SAME else "tab:blue"
            )
            axes.scatter(
                one.needed, [i - 0.25] * len(one.needed), color=colour, alpha=0.5, s=9, linewidth=0
            )
            axes.errorbar(
                mean,
                i,
                xerr=[[mean - low], [high - mean]],
                fmt="D",
                color=colour,
                markersize=4,
                capsize=3,
            )
            axes.text(mean, i + 0.2, f"{mean:.3g}", ha="center", color=colour, fontsize=8)
            if i:
                margin(i - 0.5, sure(one, ranking[i - 1]))
        margin(len(ranking) - 0.5, "sure of\nthe order")
        axes.set_yticks(
            range(len(ranking)),
            [f"({one.name})" if one.name in SAME else one.name for one in ranking],
        )
        axes.set(
            xscale="log",
            xlabel=f"expected open gates at {LEVEL} nats",
            title=title,
            ylim=(-0.6, len(ranking) - 0.3),
        )
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.grid(axis="x", color="0.93")
        axes.spines[["top", "right"]].set_visible(False)
    dots = f"geometric means, 95 % intervals and all {len(ranking[0].needed)} seeds"
    figure.supxlabel(
        f"{dots}; (controls) should equal what they rename; red: seeds that did not reach the "
        f"level",
        fontsize=8,
    )
    figure.savefig(file, dpi=120)


def check(found: dict[str, list[Found]]) -> None:
    named = {one.name: one for ranking in found.values() for one in ranking}
    for less, more in itertools.chain(*map(itertools.pairwise, ORDERS)):
        assert named[more].above(named[less]) > 0.95, f"{more} needs more than {less}"
    for name, same in SAME.items():
        (_, low, high), (_, least, most) = named[name].interval(), named[same].interval()
        assert max(low, least) <= min(high, most), f"{name} needs what {same} needs"
    for name, one in named.items():
        assert one.reached.all() or name == "even number of a", f"{name} came down to {LEVEL} nats"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, help="MNIST, an npz file or a folder; without, scikit-learn's digits"
    )
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="at least 2")
    parser.add_argument("--picture", type=Path, default=HERE / "complexity.png")
    options = parser.parse_args()
    studies = {
        "MLP 64-64-10, images": (mlp, image_tasks(*images(options.data))),
        "LSTM 2-12-2, strings": (LSTM, string_tasks()),
    }
    found = {
        title: measured(title, *study, options.steps, options.seeds)
        for title, study in studies.items()
    }
    for title, ranking in found.items():
        table(title, ranking)
    draw(found, options.picture)
    if options.steps >= STEPS and options.seeds >= SEEDS:
        check(found)


if __name__ == "__main__":
    main()
