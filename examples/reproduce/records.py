"""The recorded numbers of a reproduction: intervals over seeds, and lines of the tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def mean_of(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval by Student's t; 0 for one value."""
    from scipy.stats import t

    n, mean = len(values), mean_of(values)
    if n < 2:
        return mean, 0.0
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    return mean, float(t.ppf(0.975, n - 1)) * spread / math.sqrt(n)


def percent(values: Sequence[float]) -> str:
    """A share in per cent, with its interval where there are several seeds."""
    mean, half = interval(values)
    return f"{100 * mean:.2f} ± {100 * half:.2f} %" if len(values) > 1 else f"{100 * mean:.2f} %"


def line(record: dict[str, Any], estimator: str) -> str:
    """A row of the tables in README.md: units, weights, expected weights, error, multiply-adds."""
    seeds = record["seeds"][estimator]
    layers = range(len(seeds[0]["widths"]))
    means = [round(mean_of([seed["widths"][layer] for seed in seeds])) for layer in layers]
    widths = "-".join(map(str, means))
    realised = percent([seed["realised"] for seed in seeds])
    expected = mean_of([seed["expected"] for seed in seeds])
    error = percent([seed["error"] for seed in seeds])
    macs = mean_of([seed["macs"] for seed in seeds])
    return f"{widths} | {realised} | {100 * expected:.2f} % | {error} | {macs:,.0f}"


def show(record: dict[str, Any]) -> str:
    """The record as text, a line for each estimator."""
    row, minutes = record["row"], record["seconds"] / 60
    size = f"{row['epochs']} epochs, {row['seeds']} seeds, {minutes:.0f} min"
    lines = [f"  {name:8} {line(record, name)}" for name in record["seeds"]]
    return "\n".join([f"{record['network']}, {row['name']}: {size}", *lines])
