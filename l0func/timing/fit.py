"""A layer's times at scattered widths, as times on a grid: least squares with smoothness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from l0func.costs.latency import LatencyTable, grid_weights, kept_slices_of
from l0func.costs.latency_text import LayerTime, WidthAxis
from l0func.costs.machine import Machine
from l0func.internal.untyped import untyped
from l0func.timing.bench import TimedNetwork
from l0func.timing.networks import Networks, UnitCounts
from l0func.timing.widths import Width

_POINTS = 4
_DENSE_WEIGHT = 3.0
"""The weight of the dense network, since all shares are relative to it."""

_SMOOTHNESS = 0.1
"""The weight of curvature between grid points against a relative error in the times."""


def grid_times(shares: list[Tensor], times: Tensor, weights: Tensor) -> Tensor:
    """The times on the grid that fit best; they never fall as a width grows.

    Args:
        shares: For each axis the weights of its points in every run, shape ``(runs, points)``; one
            axis or two.
        times: The layer's times, shape ``(runs,)``.
        weights: The weight of each run's error, shape ``(runs,)``.

    Returns:
        The times on the grid, shape ``(points, points)`` or ``(points, 1)``.
    """
    first = shares[0]
    second = shares[1] if len(shares) > 1 else torch.ones_like(first[:, :1])
    points, others = first.shape[1], second.shape[1]
    design = (first[:, :, None] * second[:, None, :]).flatten(1)
    bends = torch.cat(
        [
            torch.kron(_second_differences(points), _eye(others)),
            torch.kron(_eye(points), _second_differences(others)),
        ]
    )
    smooth = _SMOOTHNESS * float(weights.square().sum().sqrt()) / points
    matrix = torch.cat([design * weights[:, None], smooth * bends])
    wanted = torch.cat([times * weights, times.new_zeros(len(bends))])
    solution: Tensor = untyped.linalg.lstsq(matrix, wanted[:, None], driver="gelsd").solution
    return rising(solution.reshape(points, others))


def _numbers(values: Sequence[Any]) -> Tensor:
    # On the CPU, whatever the default device: a card's least squares need a full rank.
    return torch.tensor(values, dtype=torch.float64, device="cpu")


def _eye(size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64, device="cpu")


def _second_differences(points: int) -> Tensor:
    """A row for each inner point: its distance from the mean of its neighbours, doubled."""
    eye = _eye(points)
    return eye[:-2] - 2 * eye[1:-1] + eye[2:]


def rising(grid: Tensor) -> Tensor:
    """The mean of the least rising grid above and the largest one below, at least 0.

    A time that falls as a width grows is noise, and a controller could not close in on a target.
    """
    above, below = grid, grid
    for dim in (0, 1):
        above = above.cummax(dim).values
        below = below.flip(dim).cummin(dim).values.flip(dim)
    return ((above + below) / 2).clamp(min=0.0)


def fitted(
    networks: Networks,
    widths: Mapping[str, tuple[Width, ...]],
    runs: Sequence[TimedNetwork],
    machine: Machine,
) -> LatencyTable:
    """The table that fits some runs; the first is that of the dense network."""
    numbers: dict[Width, int] = {}
    for own in widths.values():
        for width in own:
            numbers.setdefault(width, len(numbers))
    axes = tuple(_with_nodes(networks, width) for width in numbers)
    weights = _numbers([1 / run.total for run in runs])
    weights[0] *= _DENSE_WEIGHT
    shares = [_run_weights(networks, axis, runs) for axis in axes]
    layers: list[LayerTime] = []
    for layer, own in widths.items():
        indices = tuple(numbers[width] for width in own)
        grid = grid_times([shares[i] for i in indices], _layer_times(runs, layer), weights)
        rows = tuple(tuple(map(float, row)) for row in grid)
        layers.append(LayerTime(layer, indices, rows))
    params = networks.function.params
    shapes = {path: tuple(p.shape) for path, p in params.items()}
    fixed = _rest(widths, runs, weights)
    return LatencyTable(axes, tuple(layers), fixed, networks.sizes, shapes, machine, 0.0)


def widths_of(networks: Networks, table: LatencyTable, units: UnitCounts) -> Tensor:
    """A network's width on each axis of a table, shape ``(axes,)``."""
    kept = [_width_at(networks, (axis.path, axis.dim), units) for axis in table.axes]
    return _numbers(kept)


def _rest(widths: Mapping[str, object], runs: Sequence[TimedNetwork], weights: Tensor) -> float:
    """The constant that fits the time outside of these layers best."""
    names = {layer for run in runs for layer in run.layers} - widths.keys()
    times = torch.zeros_like(weights)
    for name in names:
        times = times + _layer_times(runs, name)
    squares = weights.square()
    return float((times * squares).sum() / squares.sum())


def _layer_times(runs: Sequence[TimedNetwork], layer: str) -> Tensor:
    return _numbers([run.layers.get(layer, 0.0) for run in runs])


def _with_nodes(networks: Networks, width: Width) -> WidthAxis:
    low = _width_at(networks, width, networks.uniform(0.0))
    high = _width_at(networks, width, networks.uniform(1.0))
    step = (high - low) / (_POINTS - 1)
    return WidthAxis(*width, tuple(low + step * i for i in range(_POINTS)))


def _width_at(networks: Networks, width: Width, units: UnitCounts) -> float:
    path, dim = width
    plan = next(p for p in networks.spec.parameters if p.path == path)
    opens = {name: opened.double() for name, opened in networks.opens(units).items()}
    return float(kept_slices_of(plan, dim, opens))


def _run_weights(networks: Networks, axis: WidthAxis, runs: Sequence[TimedNetwork]) -> Tensor:
    """The weights of the axis's points in every run, shape ``(runs, points)``."""
    width = (axis.path, axis.dim)
    kept = [_width_at(networks, width, run.units) for run in runs]
    nodes = _numbers([axis.nodes])
    return grid_weights(_numbers(kept), nodes.expand(len(runs), -1))
