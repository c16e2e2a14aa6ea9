"""A network's milliseconds as a function of its open units: the table, and what it predicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from l0func.costs.latency_text import LayerTime, WidthAxis, parts_of, text_of_parts
from l0func.costs.machine import Machine
from l0func.gates.checks import Gates, MaskEstimator, check_gates, check_values
from l0func.gates.masks import deterministic_gates
from l0func.internal import names
from l0func.internal.context import compiling
from l0func.internal.shards import whole_of
from l0func.internal.tree import Tree
from l0func.internal.watch import warn_user
from l0func.spec.plan import GateSpec, ParameterPlan, check_spec
from l0func.spec.rules import Shape


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """Milliseconds by layer and by width, made by :func:`l0func.latency_table`.

    Attributes:
        axes: The widths that times depend on: dimensions of parameters, with the grid on each.
        layers: For each layer its times on the grid of one width or two.
        fixed: Milliseconds that depend on no width.
        groups: ``{group: number of units}``.
        shapes: ``{parameter path: shape}`` of the network that was measured.
        machine: The machine that it was measured on.
        error: The median relative error for networks that were measured and left out of the fit.
        is_elsewhere: Whether the network will run on that machine, and not on this one.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> x = torch.ones(2, 4)
        >>> table = l0.latency_table(net, l0.unit_groups(net, x), x, seconds=0.1)
        >>> l0.LatencyTable.from_json(table.to_json()).groups
        {'0': 3}
    """

    axes: tuple[WidthAxis, ...]
    layers: tuple[LayerTime, ...]
    fixed: float
    groups: Mapping[str, int]
    shapes: Mapping[str, Shape]
    machine: Machine
    error: float
    is_elsewhere: bool = False

    @cached_property
    def dense(self) -> float:
        """Milliseconds with every unit open."""
        last = [axis.nodes[-1] for axis in self.axes]
        widths = torch.tensor(last, dtype=torch.float64, device="cpu")
        return float(self.at(widths))

    def at(self, widths: Tensor) -> Tensor:
        """Milliseconds at some widths.

        Args:
            widths: A width for each axis, shape ``(axes,)``.

        Returns:
            A scalar: bilinear between the grid's points, constant below the first.
        """
        if not self.layers:
            return widths.new_tensor(self.fixed)
        shares = torch.cat([grid_weights(widths, self._nodes), self._unit(widths)])
        first, second = (shares[indices.to(shares.device)] for indices in self._axes_of)
        grids = self._grids.to(shares)
        return (grids * first[:, :, None] * second[:, None, :]).sum() + self.fixed

    def _unit(self, widths: Tensor) -> Tensor:
        """The weights on the axis that a layer with one width lacks."""
        points = self._nodes.shape[1]
        return (torch.arange(points, device=widths.device) == 0).to(widths)[None]

    @cached_property
    def _nodes(self) -> Tensor:
        nodes = [axis.nodes for axis in self.axes]
        return torch.tensor(nodes, dtype=torch.float64, device="cpu")

    @cached_property
    def _axes_of(self) -> tuple[Tensor, Tensor]:
        missing = len(self.axes)
        pairs = [(*layer.axes, missing)[:2] for layer in self.layers]
        indices = torch.tensor(pairs, device="cpu")
        return indices[:, 0], indices[:, 1]

    @cached_property
    def _grids(self) -> Tensor:
        points = self._nodes.shape[1]
        grids = torch.zeros(len(self.layers), points, points, dtype=torch.float64, device="cpu")
        for grid, layer in zip(grids, self.layers, strict=True):
            ms = torch.tensor(layer.ms, dtype=torch.float64, device="cpu")
            grid[:, : ms.shape[1]] = ms
        return grids

    def only(self, paths: Iterable[str]) -> LatencyTable:
        """The table with the layers of some parameters only."""
        wanted = tuple(paths)
        layers = tuple(layer for layer in self.layers if any(map(layer.has, wanted)))
        return replace(self, layers=layers, fixed=0.0)

    def elsewhere(self) -> LatencyTable:
        """The same table, for a network that will run on the table's machine, not on this one.

        Without it, a table from another machine gives a warning wherever it is used.
        """
        return replace(self, is_elsewhere=True)

    def to_json(self) -> str:
        """The table as text, for :meth:`from_json`."""
        return text_of_parts(vars(self))

    @staticmethod
    def from_json(text: str, /) -> LatencyTable:
        """The table that :meth:`to_json` wrote.

        Raises:
            TypeError: It is no text.
            ValueError: The text is no table; the message names the place in it.
        """
        return LatencyTable(**parts_of(text))

    def __repr__(self) -> str:
        machine = self.machine
        lines = [
            f"LatencyTable: {self.dense:.4g} ms with all units, {self.error:.0%} median error",
            f"  {machine.processor}, {machine.device}, {machine.threads} threads, torch "
            f"{machine.torch}, {machine.dtype}, inputs {machine.inputs}",
        ]
        for layer in self.layers:
            lines.append(f"  {layer.path}: {layer.ms[0][0]:.4g} to {layer.ms[-1][-1]:.4g} ms")
        return "\n".join([*lines, f"  without units: {self.fixed:.4g} ms"])


def grid_weights(widths: Tensor, nodes: Tensor) -> Tensor:
    """The weights of grid points in a linear interpolation.

    Args:
        widths: A number for each axis, shape ``(axes,)``.
        nodes: The points on each axis, rising, shape ``(axes, points)``.

    Returns:
        Weights in [0, 1] that sum to 1 on each axis, shape ``(axes, points)``.
    """
    nodes = nodes.to(widths)
    steps = nodes[:, 1:] - nodes[:, :-1]
    along = (widths[:, None] - nodes[:, :-1]) / steps
    # On a grid point these give the mean of both slopes; clamps would add them.
    along = torch.maximum(along, torch.zeros_like(along))
    inner = torch.minimum(along[:, :-1], torch.ones_like(along[:, :-1]))
    ramps = torch.cat([inner, along[:, -1:]], dim=1)
    ones, zeros = torch.ones_like(ramps[:, :1]), torch.zeros_like(ramps[:, :1])
    return torch.cat([ones, ramps], dim=1) - torch.cat([ramps, zeros], dim=1)


def expected_ms(gates: Tree, spec: GateSpec, table: LatencyTable) -> Tensor:
    """Milliseconds at the expected numbers of open units, differentiable in the gates.

    Args:
        gates: ``{gate name: log_alpha}``.
        spec: The gate spec.
        table: The table from :func:`l0func.latency_table`.

    Returns:
        Milliseconds, a scalar.

    Raises:
        TypeError: ``table`` is not from :func:`l0func.latency_table`.
        ValueError: Gates do not fit the spec, or the table is another network's.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> x = torch.ones(2, 4)
        >>> groups = l0.unit_groups(net, x)
        >>> table = l0.latency_table(net, groups, x, seconds=0.1)
        >>> _, params, buffers = l0.make_functional(net)
        >>> spec = l0.gate_spec(params, groups=groups, buffers=buffers)
        >>> l0.expected_ms({"0": torch.zeros(3)}, spec, table).shape
        torch.Size([])
    """
    named = check_gates(gates, spec)
    check_table(table, spec)
    opens = {g.name: g.distribution.prob_nonzero(named[g.name]) for g in spec.gates}
    return ms_of(opens, spec, table)


def realised_ms(
    gates: Tree, spec: GateSpec, table: LatencyTable, estimator: MaskEstimator = "louizos"
) -> float:
    """Milliseconds of the network that test-time gates leave, as the table predicts them.

    Args:
        gates: ``{gate name: log_alpha}``.
        spec: The gate spec.
        table: The table from :func:`l0func.latency_table`.
        estimator: The test-time gates.

    Returns:
        Milliseconds.

    Raises:
        TypeError: ``table`` is not from :func:`l0func.latency_table`.
        ValueError: Gates do not fit the spec, one is NaN, or the table is another network's.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> x = torch.ones(2, 4)
        >>> groups = l0.unit_groups(net, x)
        >>> table = l0.latency_table(net, groups, x, seconds=0.1)
        >>> _, params, buffers = l0.make_functional(net)
        >>> spec = l0.gate_spec(params, groups=groups, buffers=buffers)
        >>> l0.realised_ms({"0": torch.tensor([9.0, -9.0, 9.0])}, spec, table) > 0  # milliseconds
        True
    """
    named = check_gates(gates, spec)
    check_table(table, spec)
    check_values(named)
    z = deterministic_gates(named, spec, estimator)
    opens = {name: (value != 0).double() for name, value in z.items()}
    return float(ms_of(opens, spec, table))


def ms_of(opens: Gates, spec: GateSpec, table: LatencyTable) -> Tensor:
    """Milliseconds with every gate open by a weight.

    Args:
        opens: ``{gate name: weight of each gate}``: a probability, or 0 or 1.
        spec: The gate spec.
        table: A table for this spec.
    """
    plans = {p.path: p for p in spec.parameters}
    opens = whole_units(opens, [table])
    like = next(iter(opens.values()))
    widths = [kept_slices_of(plans[axis.path], axis.dim, opens, table) for axis in table.axes]
    none = torch.zeros(0, dtype=like.dtype, device=like.device)
    stacked = torch.stack(widths) if widths else none
    return table.at(stacked)


def whole_units(opens: Gates, tables: Sequence[LatencyTable]) -> Gates:
    """Gates, those of the tables' groups whole: numbers of units are read in whole.

    A vector of units is short. It is gathered if it is a DTensor.
    """
    groups = {name for table in tables for name in table.groups}
    return {name: whole_of(t) if name in groups else t for name, t in opens.items()}


def kept_slices_of(
    plan: ParameterPlan, dim: int, opens: Gates, table: LatencyTable | None = None
) -> Tensor:
    """The number of slices along a dimension that groups leave, a scalar."""
    like = next(iter(opens.values()))
    kept = torch.ones(plan.shape[dim], dtype=like.dtype, device=like.device)
    for binding in plan.bindings:
        own: int | None = getattr(binding.rule, "dim", None)
        is_group = table is None or binding.gate in table.groups
        if is_group and own is not None and own % len(plan.shape) == dim:
            kept = kept * binding.rule.spread(opens[binding.gate], plan.shape).flatten()
    return kept.sum()


def check_table(table: Any, spec: GateSpec) -> None:
    """Refuse anything but a table for this network; warn about one of another machine.

    Raises:
        TypeError: It is no table.
        ValueError: It is another network's, or lacks a group.
    """
    check_spec(spec)
    if not isinstance(table, LatencyTable):
        raise TypeError(f"A table comes from l0func.latency_table; got {type(table).__name__}.")
    _check_measured_shapes(table, spec)
    _check_measured_groups(table, spec)
    if not compiling():
        _warn_of_other_machine(table, spec)


def _check_measured_shapes(table: LatencyTable, spec: GateSpec) -> None:
    for p in spec.parameters:
        measured = table.shapes.get(p.path, p.shape)
        if measured != p.shape:
            raise ValueError(
                f"The latency table is another network's: {p.path!r} has the shape {measured} "
                f"there, and {p.shape} in the spec. Measure this one: l0func.latency_table."
            )
    known = {p.path for p in spec.parameters}
    used = {axis.path for axis in table.axes}
    advice = "The latency table is another network's."
    names.check_names(known & used, used, "the spec", "the latency table", advice)


def _check_measured_groups(table: LatencyTable, spec: GateSpec) -> None:
    groups = {name for name, _ in spec.attrs}
    for gate in spec.gates:
        if gate.name not in groups:
            continue
        units = table.groups.get(gate.name)
        if units != gate.size:
            there = "no such group" if units is None else f"{units} units in it"
            raise ValueError(
                f"The spec has the group {gate.name!r} with {gate.size} units, and the latency "
                f"table has {there}; it has {list(table.groups)}. Measure with the groups of the "
                "spec: l0func.latency_table(module, groups, inputs)."
            )


def _warn_of_other_machine(table: LatencyTable, spec: GateSpec) -> None:
    if table.is_elsewhere:
        return
    dtypes = {str(p.dtype) for p in spec.parameters if p.path in table.shapes}
    here = table.machine.now()
    if dtypes and table.machine.dtype not in dtypes:
        here = replace(here, dtype=min(dtypes))
    differences = table.machine.differences(here)
    if differences:
        warn_user(
            f"The latency table was measured on another machine or in another way: {differences}. "
            "Measure again where the network will run: l0func.latency_table. If it will run "
            "there, say so: table.elsewhere()."
        )
