"""The ranking that complexity.py prints and draws, with intervals and tests over seeds."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from complexity_tasks import SAME
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor

LEVEL = 0.1  # nats
# The orders that the full run asserts, from less to more.
ORDERS = (
    ("0 or 1", "4 or 9", "even or odd", "ten digits", "ten, blurred", "ten, labels shuffled"),
    ("ends with a", "starts with a", "palindromes"),
    ("balanced brackets", "32 random strings"),
    ("balanced brackets", "even number of a"),
)
HARD = "even number of a"  # one seed of five never learns it


class Found(NamedTuple):
    """The measurements for one task; every tensor has an entry for each seed."""

    name: str
    needed: Tensor
    """Expected open gates, the fewest at which the loss was at the level."""
    pruned: Tensor
    """Weights that the Louizos estimator leaves."""
    entropy: Tensor
    """Cross-entropy of the pruned network on all examples."""
    reached: Tensor
    """Whether the loss came down to the level."""

    def interval(self) -> list[float]:
        """Geometric mean, and its 95 % interval: Student's t for the logarithms."""
        logs = self.needed.log()
        width = float(stats.t.ppf(0.975, len(logs) - 1)) * logs.std() / len(logs) ** 0.5
        return [(logs.mean() + shift).exp().item() for shift in (0.0, -width, width)]

    def above(self, other: Found) -> float:
        """How sure it is that this task needs more: 1 - p of Welch's one-sided t test."""
        moments: list[float] = []
        for logs in (other.needed.log(), self.needed.log()):
            moments += [logs.mean().item(), logs.std().item(), len(logs)]
        test = stats.ttest_ind_from_stats(*moments, equal_var=False, alternative="less")
        return 1 - test.pvalue

    def colour(self) -> str:
        """Red for a seed that missed the level, grey for a control."""
        if not self.reached.all():
            return "tab:red"
        return "0.5" if self.name in SAME else "tab:blue"

    def label(self) -> str:
        return f"({self.name})" if self.name in SAME else self.name


def sure(one: Found, last: Found) -> str:
    above = one.above(last)
    return f"{above:.1%}" if above < 0.9995 else "> 99.9%"


def table(title: str, ranking: list[Found]) -> None:
    """Print a line for each task; the last column is the certainty of its place in the order."""
    head = f"{'needed':>8}{'95 % interval':>18}{'pruned':>8}{'nats':>7}{'reached':>9}"
    print(f"\n{title:22}{head}{'above the last':>16}")
    for place, one in enumerate(ranking):
        mean, low, high = one.interval()
        pruned, entropy = one.pruned.mean(), one.entropy.mean()
        numbers = f"{mean:8.1f}{low:10.1f} –{high:6.1f}{pruned:8.1f}{entropy:7.3f}"
        reached = f"{int(one.reached.sum())} of {len(one.reached)}"
        above = f"{sure(one, ranking[place - 1]):>16}" if place else ""
        print(f"{one.name:22}{numbers}{reached:>9}{above}")


def panel(axes: Axes, title: str, ranking: list[Found]) -> None:
    """Draw each task: its seeds as dots, its mean and interval, its certainty in the margin."""
    margin = partial(
        axes.text, 1.01, transform=axes.get_yaxis_transform(), va="center", fontsize=8
    )
    for i, one in enumerate(ranking):
        mean, low, high = one.interval()
        colour = one.colour()
        below = [i - 0.25] * len(one.needed)
        bar = [[mean - low], [high - mean]]
        axes.scatter(one.needed, below, color=colour, alpha=0.5, s=9, linewidth=0)
        axes.errorbar(mean, i, xerr=bar, fmt="D", color=colour, markersize=4, capsize=3)
        axes.text(mean, i + 0.2, f"{mean:.3g}", ha="center", color=colour, fontsize=8)
        if i:
            margin(i - 0.5, sure(one, ranking[i - 1]))
    margin(len(ranking) - 0.5, "sure of\nthe order")
    axes.set_yticks(range(len(ranking)), [one.label() for one in ranking])
    axes.set(xscale="log", title=title, ylim=(-0.6, len(ranking) - 0.3))
    axes.set_xlabel(f"expected open gates at {LEVEL} nats")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.grid(axis="x", color="0.93")
    axes.spines[["top", "right"]].set_visible(False)


def draw(found: dict[str, list[Found]], file: Path) -> None:
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    panels = figure.subplots(1, len(found))
    for axes, (title, ranking) in zip(panels, found.items(), strict=True):
        panel(axes, title, ranking)
    seeds = len(next(iter(found.values()))[0].needed)
    figure.supxlabel(
        f"geometric means, 95 % intervals and all {seeds} seeds; (controls) should equal what "
        "they rename; red: seeds that did not reach the level",
        fontsize=8,
    )
    figure.savefig(file, dpi=120)


def check(found: dict[str, list[Found]]) -> None:
    """The claims of the full run."""
    named = {one.name: one for ranking in found.values() for one in ranking}
    for order in ORDERS:
        for less, more in pairwise(order):
            assert named[more].above(named[less]) > 0.95, f"{more} needs more than {less}"
    for name, same in SAME.items():
        _, low, high = named[name].interval()
        _, least, most = named[same].interval()
        assert max(low, least) <= min(high, most), f"{name} needs what {same} needs"
    for name, one in named.items():
        assert one.reached.all() or name == HARD, f"{name} came down to {LEVEL} nats"
