"""Pictures of learned gates: each function draws plain results on matplotlib axes.

Every function takes the axes to draw on, or makes a figure of its own, and returns the axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import cycle
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from l0func.costs.summary import Summary
from l0func.gates.checks import check_gates, check_values
from l0func.internal.scalars import integer
from l0func.internal.tree import Tree
from l0func.internal.untyped import listed, loose
from l0func.internal.whole import check_whole
from l0func.spec.plan import GateSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DARK, _LIGHT = "#33415c", "#b8c0d0"
_RUNS = (_DARK, "#c1432e", "#4f8a6b", "#8a6bbf", "#c98a2b")


def density(summary: Summary, ax: Axes | None = None, names: Sequence[str] | None = None) -> Axes:
    """Density of every gated parameter, expected beside realised.

    Args:
        summary: A summary from ``l0func.summary``.
        ax: Where to draw; None is a new figure.
        names: The parameters to draw; None draws all parameters with gates.

    Returns:
        The axes: two bars for each parameter, in percent.

    Raises:
        TypeError: ``summary`` is no summary.
        ValueError: No parameter has gates.
        KeyError: A name is no parameter.
        ImportError: matplotlib is not there.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> params = {"w": torch.ones(2, 3)}
        >>> spec = l0.gate_spec(params, {"w": l0.axis(0)})
        >>> gates = {"w": torch.tensor([-3.0, 3.0])}
        >>> ax = l0.plot.density(l0.summary(params, gates, spec))
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['w']
    """
    given: Any = summary
    if not isinstance(given, Summary):
        raise TypeError(
            "density draws a table from l0func.summary(params, gates, spec); got "
            f"{type(given).__name__}."
        )
    if isinstance(names, str):
        names = [names]
    if names is None:
        rows = [row for row in summary.rows if row.gates]
    else:
        rows = [summary[name] for name in names]
    if not rows:
        raise ValueError("No parameter of this summary has gates: there is no density to draw.")
    on = _axes(ax, height=0.9 + 0.34 * len(rows))
    expected = [100 * row.expected_density for row in rows]
    realised = [100 * row.realised_density for row in rows]
    upper = [place - 0.2 for place in range(len(rows))]
    lower = [place + 0.2 for place in range(len(rows))]
    on.barh(upper, expected, height=0.4, label="expected", color=_LIGHT)
    on.barh(lower, realised, height=0.4, label=f"realised ({summary.estimator})", color=_DARK)
    _label_bars(on, [row.name for row in rows], "Density")
    on.set(xlim=(0, 100), xlabel="entries that are open, %")
    return on


def open_probability(gates: Tree, spec: GateSpec, ax: Axes | None = None, bins: int = 20) -> Axes:
    """Histogram of the probability that a gate is open: has training decided yet?

    Args:
        gates: ``{gate name: log_alpha}``.
        spec: The gate spec.
        ax: Where to draw; None is a new figure.
        bins: Number of bins over [0, 1].

    Returns:
        The axes. The title gives the share of undecided gates: those with P(open) between 0.05
        and 0.95.

    Raises:
        TypeError: ``bins`` is no integer.
        ValueError: Gates do not fit the spec, one is NaN, or there are none; or ``bins`` is below
            1.
        ImportError: matplotlib is not there.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> params = {"w": torch.ones(2, 3)}
        >>> spec = l0.gate_spec(params, {"w": l0.axis(0)})
        >>> gates = {"w": torch.tensor([-3.0, 3.0])}
        >>> ax = l0.plot.open_probability(gates, spec)
        >>> ax.get_xlabel()
        'P(open)'
    """
    check_whole("plot.open_probability", gates=gates)
    if integer(bins, "bins") < 1:
        raise ValueError(f"bins is a number of bins, at least 1; got {bins}.")
    named = check_gates(gates, spec)
    check_values(named)
    if not named:
        raise ValueError("This spec has no gates: there is no probability to draw.")
    found: list[Tensor] = []
    for gate in spec.gates:
        opens = gate.distribution.prob_nonzero(named[gate.name].detach())
        found.append(opens.flatten().double())
    p = torch.cat(found)
    is_undecided = (p > 0.05) & (p < 0.95)
    share = float(is_undecided.double().mean())
    on = _axes(ax)
    on.hist(_to_list(p), bins=bins, range=(0, 1), color=_DARK, edgecolor="white", linewidth=0.5)
    on.set(xlim=(0, 1), xlabel="P(open)", ylabel="gates")
    on.set_title(f"{share:.0%} of {len(p):,} gates undecided")
    _without_frame(on)
    return on


def trajectories(
    steps: Sequence[float] | Tensor, history: Sequence[Tensor] | Tensor, ax: Axes | None = None
) -> Axes:
    """Gates over training steps, a line for each gate.

    Args:
        steps: T step numbers.
        history: P(open), or another value of the same gates, at each step: shape ``(T, gates)``,
            or T tensors.
        ax: Where to draw; None is a new figure.

    Returns:
        The axes; lines that end below one half are light.

    Raises:
        ValueError: The numbers of steps and values differ, or are 0.
        ImportError: matplotlib is not there.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> history = [torch.tensor([0.9, 0.9]), torch.tensor([0.99, 0.1])]
        >>> ax = l0.plot.trajectories([0, 100], history)
        >>> len(ax.lines)  # a line for each gate
        2
    """
    check_whole("plot.trajectories", history=history)
    flat = [values.detach().flatten().double() for values in history]
    values = torch.stack(flat) if flat else torch.zeros(0, 0)
    at = _to_list(torch.as_tensor(steps).double())
    if len(at) != len(values) or not len(at):
        raise ValueError(
            f"Gates over time need a value of every gate at each step; got {len(at)} steps and "
            f"{len(values)} values."
        )
    on = _axes(ax)
    width = 0.3 + 6.0 / (values.shape[1] + 6)
    for line in sorted(values.T, key=lambda line: float(line[-1])):
        colour = _DARK if line[-1] >= 0.5 else _LIGHT
        on.plot(at, _to_list(line), color=colour, linewidth=width)
    on.set(xlabel="step", ylabel="P(open)", xlim=(at[0], at[-1]))
    on.set_title(f"{values.shape[1]:,} gates over training")
    _without_frame(on)
    return on


def filters(weight: Tensor, ax: Axes | None = None) -> Axes:
    """A convolution's filters, each as the mean over its input channels; closed ones stay blank.

    Args:
        weight: A pruned weight, shape ``(out, in, height, width)``; a filter of zeros is closed.
        ax: Where to draw; None is a new figure.

    Returns:
        The axes, with a mosaic of all filters in their order.

    Raises:
        ValueError: The weight is not that of a 2-D convolution.
        ImportError: matplotlib is not there.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> ax = l0.plot.filters(torch.ones(4, 1, 3, 3))
        >>> len(ax.images)
        1
    """
    check_whole("plot.filters", weight=weight)
    if weight.dim() != 4:
        raise ValueError(
            f"Filters are drawn from a weight (out, in, height, width); got shape "
            f"{tuple(weight.shape)}."
        )
    kernels = weight.detach().double().cpu()
    count, _, height, width = kernels.shape
    mosaic = _Mosaic(count, height, width)
    opens = (kernels != 0).flatten(1).any(1)
    image = mosaic.image(kernels.mean(1), listed(opens.nonzero().flatten()))
    on = _axes(ax)
    limit = float(image.nan_to_num().abs().max()) or 1.0
    on.imshow(_to_list(image), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    for number in range(count):
        top, left = mosaic.corner(number)
        on.add_patch(_frame((left - 0.5, top - 0.5), width, height))
    on.set_axis_off()
    on.set_title(f"{int(opens.sum())} of {count} filters survive")
    return on


@dataclass(frozen=True)
class _Mosaic:
    """A grid of ``count`` tiles with a border of one pixel around each."""

    count: int
    height: int
    width: int

    def columns(self) -> int:
        return max(1, round((self.count * 1.6) ** 0.5))

    def corner(self, number: int) -> tuple[int, int]:
        """The top and left pixel of a tile."""
        line, column = divmod(number, self.columns())
        top = line * (self.height + 1) + 1
        left = column * (self.width + 1) + 1
        return top, left

    def image(self, tiles: Tensor, shown: list[int]) -> Tensor:
        """The whole picture, NaN except in the tiles that are shown."""
        lines = -(-self.count // self.columns())
        pixels_down = lines * (self.height + 1) + 1
        pixels_across = self.columns() * (self.width + 1) + 1
        image = torch.full((pixels_down, pixels_across), float("nan"), dtype=tiles.dtype)
        for number in shown:
            top, left = self.corner(number)
            bottom, right = top + self.height, left + self.width
            image[top:bottom, left:right] = tiles[number]
        return image


def widths(before: Mapping[str, int], after: Mapping[str, int], ax: Axes | None = None) -> Axes:
    """A network's widths, before and after.

    Args:
        before: ``{layer: units}``.
        after: The same layers with the units that are left.
        ax: Where to draw; None is a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: The layers before and after differ, or there are none.
        ImportError: matplotlib is not there.

    Example:
        >>> import l0func as l0
        >>> ax = l0.plot.widths({"conv1": 16, "conv2": 32}, {"conv1": 5, "conv2": 12})
        >>> len(ax.get_yticklabels())
        2
    """
    if list(before) != list(after) or not before:
        raise ValueError(
            f"Widths before and after are of the same layers; got {list(before)} and "
            f"{list(after)}."
        )
    on = _axes(ax, height=0.9 + 0.3 * len(before))
    places = range(len(before))
    on.barh(places, list(before.values()), color=_LIGHT, label="before")
    on.barh(places, list(after.values()), color=_DARK, label="after", height=0.5)
    for place, (n, m) in enumerate(zip(before.values(), after.values(), strict=True)):
        on.text(n, place, f" {m} of {n}", va="center", fontsize=8, color=_DARK)
    _label_bars(on, list(before), "Widths")
    on.set(xlabel="units", xlim=(0, 1.22 * max(before.values())))
    return on


def tradeoff(
    runs: Mapping[str, Sequence[tuple[float, float]]],
    ax: Axes | None = None,
    quality: str = "accuracy, %",
) -> Axes:
    """Accuracy against density, a line for each run.

    Args:
        runs: ``{label: [(density in (0, 1], accuracy), …]}``.
        ax: Where to draw; None is a new figure.
        quality: Name and unit of the second numbers.

    Returns:
        The axes, density on a logarithmic scale in percent.

    Raises:
        TypeError: ``runs`` has no labels.
        ValueError: A density is not in (0, 1].
        ImportError: matplotlib is not there.

    Example:
        >>> import l0func as l0
        >>> ax = l0.plot.tradeoff({"lam": [(0.5, 98.0), (0.1, 97.0)]})
        >>> ax.get_ylabel()
        'accuracy, %'
    """
    given: Any = runs
    if not isinstance(given, Mapping):
        raise TypeError(
            "tradeoff draws runs by their labels, {label: [(density, accuracy), ...]}; got "
            f"{type(given).__name__}."
        )
    for label, points in runs.items():
        _check_densities(label, points)
    on = _axes(ax)
    for colour, (label, points) in zip(cycle(_RUNS), runs.items(), strict=False):
        ordered = sorted(points)
        densities = [100 * density for density, _ in ordered]
        qualities = [value for _, value in ordered]
        on.plot(densities, qualities, "o-", label=label, color=colour)
    on.set_xscale("log")
    # Within a decade, too, there are two numbers at least, and none as a power of ten.
    on.xaxis.get_major_locator().set_params(subs=(1.0, 2.0, 5.0))
    on.xaxis.set_major_formatter("{x:g}")
    on.xaxis.set_minor_formatter("")
    on.set(xlabel="density, % of entries left", ylabel=quality, title="Accuracy against density")
    _without_frame(on)
    if len(runs) > 1:
        on.legend()
    return on


def _check_densities(label: str, points: Sequence[tuple[float, float]]) -> None:
    for density, _ in points:
        if not 0 < density <= 1:
            raise ValueError(f"A density is a share in (0, 1]; run {label!r} has {density}.")


def _label_bars(ax: Any, names: list[str], title: str) -> None:
    """Name the bars from top to bottom; put the legend beside the title, where no bar is."""
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_title(title, loc="left")
    ax.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=2,
        frameon=False,
        borderaxespad=0.2,
        fontsize=9,
    )
    _without_frame(ax)


def _without_frame(ax: Any) -> None:
    ax.spines[["top", "right"]].set_visible(False)


def _axes(ax: Axes | None, height: float = 3.4) -> Any:
    """Axes to draw on; matplotlib's own types leave too much open to draw with them."""
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
