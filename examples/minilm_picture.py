"""The picture of minilm.py: quality against multiply-adds, and the units that layers keep."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Record = dict[str, Any]
COLOURS = {"gates": "tab:blue", "surgeon": "tab:green", "magnitude": "tab:orange", "random": "0.5"}
HEADS = "attention"


def draw(records: list[Record], picture: Path) -> None:
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    quality, heads, inner = figure.subplots(1, 3, width_ratios=(1.25, 1, 1))
    # The gates above the others.
    for record in sorted(records, key=lambda one: one["method"] == "gates"):
        curve(quality, record)
    quality.set(xlabel="multiply-adds left, %", ylabel="rank correlation with the teacher")
    quality.set_title("filled: distilled; hollow: refit alone")
    names = {record["method"]: COLOURS[record["method"]] for record in records}
    for name, colour in names.items():
        quality.plot([], [], "o", color=colour, label=name)
    quality.legend(frameon=False, loc="lower right")
    gates = [record for record in records if record["method"] == "gates"]
    for axes, of_heads, title in ((heads, True, "attention heads"), (inner, False, "FFN units")):
        widths(axes, gates, of_heads)
        axes.set(title=f"{title} that the gates keep", xlabel="layer")
    figure.savefig(picture, dpi=110)


def curve(axes: Axes, record: Record) -> None:
    """One run: quality with refit alone, dashed, and after distillation."""
    colour = COLOURS[record["method"]]
    shares = [100.0] + [100 * level["macs"] for level in record["levels"]]
    for name, style, fill in (("refit", "--", "none"), ("distilled", "-", colour)):
        values = [1.0] + [level[name] for level in record["levels"]]
        axes.plot(
            shares, values, style, color=colour, marker="o", markerfacecolor=fill, linewidth=1
        )


def widths(axes: Axes, records: list[Record], of_heads: bool) -> None:
    """The mean number of units that each layer keeps, one bar for each target."""
    targets = sorted({level["target"] for record in records for level in record["levels"]})
    for place, target in enumerate(reversed(targets)):
        # A run that was stopped has its first target alone.
        runs = [record["levels"] for record in records]
        kept = [levels[place]["kept"] for levels in runs if len(levels) > place]
        names = [name for name in kept[0] if (HEADS in name) == of_heads]
        means = [statistics.fmean(one[name] for one in kept) for name in names]
        at = [layer + 1 + 0.38 * (place - 0.5) for layer in range(len(names))]
        axes.bar(at, means, 0.36, color=("tab:blue", "tab:cyan")[place], label=f"{target:.0%}")
    whole = 12 if of_heads else 1536
    axes.axhline(whole, color="0.7", linewidth=1)
    axes.set_ylim(0, 1.25 * whole)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, title="multiply-adds left", loc="upper center", ncols=2)
