"""Pictures of what was learned: each function draws plain results on a matplotlib Axes and returns
it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from l0func.costs.summary import Summary
from l0func.gates.checks import check_gates
from l0func.internal.tree import Tree
from l0func.internal.untyped import listed, loose
from l0func.spec.plan import GateSpec

Axes = Any
"""A ``matplotlib.axes.Axes``."""

_DARK, _LIGHT, _STRONG = "#33415c", "#b8c0d0", "#c1432e"


def density(summary: Summary, ax: Axes = None, names: Sequence[str] | None = None) -> Axes:
    """Density of every gated parameter, expected beside realised.

    Args:
        summary: What ``l0func.summary`` returned.
        ax: Where to draw; None is a new figure.
        names: The parameters to draw; None is all that have gates.

    Returns:
        The axes: two bars a parameter, in percent.

    Raises:
        ValueError: No parameter has gates.
        KeyError: A name is no parameter.
        ImportError: matplotlib is not there.
    """
    rows = (
        [row for row in summary.rows if row.gates]
        if names is None
        else [summary[name] for name in names]
    )
    if not rows:
        raise ValueError("No parameter of this summary has gates: there is no density to draw.")
    ax = _axes(ax, height=0.9 + 0.34 * len(rows))
    places = range(len(rows))
    for shift, name, shares, colour in (
        (-0.2, "expected", [100 * row.expected_density for row in rows], _LIGHT),
        (
            0.2,
            f"realised ({summary.estimator})",
            [100 * row.realised_density for row in rows],
            _DARK,
        ),
    ):
        ax.barh([place + shift for place in places], shares, height=0.4, label=name, color=colour)
    ax.set_yticks(places, [row.name for row in rows])
    ax.invert_yaxis()
    ax.set(xlim=(0, 100), xlabel="entries that are open, %")
    _titled(ax, "Density")
    return ax


def open_probability(gates: Tree, spec: GateSpec, ax: Axes = None, bins: int = 20) -> Axes:
    """Histogram of the probability that a gate is open: has training decided yet?

    Args:
        gates: ``{gate name: log_alpha}``.
        spec: The plan.
        ax: Where to draw; None is a new figure.
        bins: Number of bins over [0, 1].

    Returns:
        The axes, with the share of gates that are still undecided, P(open) between 0.05 and 0.95,
        in the title.

    Raises:
        ValueError: Gates do not fit the spec.
        ImportError: matplotlib is not there.
    """
    named = check_gates(gates, spec)
    p = torch.cat(
        [
            g.distribution.prob_nonzero(named[g.name].detach()).flatten().double()
            for g in spec.gates
        ]
    )
    undecided = float(((p > 0.05) & (p < 0.95)).double().mean())
    ax = _axes(ax)
    ax.hist(_to_list(p), bins=bins, range=(0, 1), color=_DARK, edgecolor="white", linewidth=0.5)
    ax.set(
        xlim=(0, 1),
        xlabel="P(open)",
        ylabel="gates",
        title=f"{undecided:.0%} of {len(p):,} gates undecided",
    )
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def trajectories(
    steps: Sequence[float] | Tensor, history: Sequence[Tensor] | Tensor, ax: Axes = None
) -> Axes:
    """Gates over training steps, a line each.

    Args:
        steps: Step numbers, T of them.
        history: P(open), or any other value, of the same gates at each step: shape ``(T, gates)``,
            or T tensors.
        ax: Where to draw; None is a new figure.

    Returns:
        The axes; lines that end below one half are light.

    Raises:
        ValueError: There are not as many steps as values, or none.
        ImportError: matplotlib is not there.
    """
    values = (
        torch.stack([row.detach().flatten().double() for row in history])
        if len(history)
        else torch.zeros(0, 0)
    )
    at = _to_list(torch.as_tensor(steps).double())
    if len(at) != len(values) or not len(at):
        raise ValueError(
            f"Gates over time need a value of every gate at each step; got {len(at)} steps and "
            f"{len(values)} values."
        )
    ax = _axes(ax)
    width = 0.3 + 6.0 / (values.shape[1] + 6)
    for line in sorted(values.T, key=lambda line: float(line[-1])):
        ax.plot(at, _to_list(line), color=_DARK if line[-1] >= 0.5 else _LIGHT, linewidth=width)
    ax.set(
        xlabel="step",
        ylabel="P(open)",
        title=f"{values.shape[1]:,} gates over training",
        xlim=(at[0], at[-1]),
    )
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def filters(weight: Tensor, ax: Axes = None) -> Axes:
    """The kernels of a convolution that survive, each the mean over its input channels; closed
    ones stay blank.

    Args:
        weight: Pruned, shape ``(out, in, height, width)``; a filter of zeros is closed.
        ax: Where to draw; None is a new figure.

    Returns:
        The axes, with a mosaic of all filters in their order.

    Raises:
        ValueError: The weight is not that of a 2-D convolution.
        ImportError: matplotlib is not there.
    """
    if weight.dim() != 4:
        raise ValueError(
            f"Filters are drawn from a weight (out, in, height, width); got shape "
            f"{tuple(weight.shape)}."
        )
    kernels = weight.detach().double().cpu()
    opens = (kernels != 0).flatten(1).any(1)
    count, _, height, width = kernels.shape
    columns = max(1, round((count * 1.6) ** 0.5))
    lines = -(-count // columns)
    mosaic = torch.full(
        (lines * (height + 1) + 1, columns * (width + 1) + 1), float("nan"), dtype=torch.float64
    )
    for number in listed(opens.nonzero().flatten()):
        top, left = (number // columns) * (height + 1) + 1, (number % columns) * (width + 1) + 1
        mosaic[top : top + height, left : left + width] = kernels[number].mean(0)
    ax = _axes(ax)
    limit = float(mosaic.nan_to_num().abs().max()) or 1.0
    ax.imshow(_to_list(mosaic), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    for number in range(count):
        corner = ((number % columns) * (width + 1) + 0.5, (number // columns) * (height + 1) + 0.5)
        ax.add_patch(_frame(corner, width, height))
    ax.set_axis_off()
    ax.set_title(f"{int(opens.sum())} of {count} filters survive")
    return ax


def widths(before: Mapping[str, int], after: Mapping[str, int], ax: Axes = None) -> Axes:
    """A network's widths, before and after.

    Args:
        before: ``{layer: units}``.
        after: The same layers, with what is left.
        ax: Where to draw; None is a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: The layers are not the same.
        ImportError: matplotlib is not there.
    """
    if list(before) != list(after) or not before:
        raise ValueError(
            f"Widths before and after are of the same layers; got {list(before)} and "
            f"{list(after)}."
        )
    ax = _axes(ax, height=0.9 + 0.3 * len(before))
    places = range(len(before))
    ax.barh(places, list(before.values()), color=_LIGHT, label="before")
    ax.barh(places, list(after.values()), color=_DARK, label="after", height=0.5)
    for place, (n, m) in enumerate(zip(before.values(), after.values(), strict=True)):
        ax.text(n, place, f" {m} of {n}", va="center", fontsize=8, color=_DARK)
    ax.set_yticks(places, list(before))
    ax.invert_yaxis()
    ax.set(xlabel="units", xlim=(0, 1.22 * max(before.values())))
    _titled(ax, "Widths")
    return ax


def tradeoff(
    runs: Mapping[str, Sequence[tuple[float, float]]],
    ax: Axes = None,
    quality: str = "accuracy, %",
) -> Axes:
    """Accuracy against density, a line for each of several runs.

    Args:
        runs: ``{label: [(density in (0, 1], accuracy), …]}``.
        ax: Where to draw; None is a new figure.
        quality: What the second numbers are.

    Returns:
        The axes, density on a logarithmic scale in percent.

    Raises:
        ValueError: A density is not in (0, 1].
        ImportError: matplotlib is not there.
    """
    for label, points in runs.items():
        for share, _ in points:
            if not 0 < share <= 1:
                raise ValueError(f"A density is a share in (0, 1]; run {label!r} has {share}.")
    ax = _axes(ax)
    shades = (_DARK, _STRONG, "#4f8a6b", "#8a6bbf", "#c98a2b")
    for number, (label, points) in enumerate(runs.items()):
        ordered = sorted(points)
        ax.plot(
            [100 * d for d, _ in ordered],
            [q for _, q in ordered],
            "o-",
            label=label,
            color=shades[number % 5],
        )
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set(xlabel="density, % of entries left", ylabel=quality, title="Accuracy against density")
    ax.spines[["top", "right"]].set_visible(False)
    if len(runs) > 1:
        ax.legend()
    return ax


def _titled(ax: Axes, title: str) -> None:
    """A title with the legend beside it, where no bar is."""
    ax.set_title(title, loc="left")
    ax.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=2,
        frameon=False,
        borderaxespad=0.2,
        fontsize=9,
    )
    ax.spines[["top", "right"]].set_visible(False)


def _axes(ax: Axes, height: float = 3.4) -> Axes:
    if ax is not None:
        return ax
    # Not pyplot: a figure of one's own needs no display and no global state.
    figure: Any = _matplotlib("figure").Figure(figsize=(5.4, height), layout="constrained")
    return figure.subplots()


def _frame(corner: tuple[float, float], width: int, height: int) -> Any:
    return _matplotlib("patches").Rectangle(
        corner, width, height, fill=False, edgecolor=_LIGHT, linewidth=0.8
    )


def _matplotlib(name: str) -> Any:
    try:
        return import_module(f"matplotlib.{name}")
    except ImportError:
        raise ImportError("Pictures need matplotlib: pip install 'l0func[plot]'.") from None


def _to_list(tensor: Tensor) -> list[Any]:
    return loose(tensor.cpu()).tolist()
