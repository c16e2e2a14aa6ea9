"""``summary``: a table with the expected and the realised open entries in every parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from l0func.costs.expected import effective_squares, prob_open
from l0func.gates.checks import (
    ESTIMATORS,
    Gates,
    MaskEstimator,
    check_devices,
    check_finite,
    check_gates,
    check_params,
    check_values,
)
from l0func.gates.closed import warn_if_closed
from l0func.gates.density import Density, decision, fixed_gates
from l0func.gates.twice import warn_if_pruned
from l0func.internal import names
from l0func.internal.kinds import check_has_values
from l0func.internal.shard_sums import full_sums
from l0func.internal.stacked import check_not_mapped
from l0func.internal.tree import Tree
from l0func.spec.parts import ParameterPlan
from l0func.spec.plan import GateSpec

Cells = tuple[str, ...]
"""A row as text, one string a column."""

HEADINGS = (
    "parameter",
    "shape",
    "gates",
    "expected open",
    "realised open",
    "expected density",
    "realised density",
    "L2",
)


@dataclass(frozen=True)
class SummaryRow:
    """One line in the table: a parameter, or the total.

    Attributes:
        name: The parameter's path.
        shape: Its shape; empty for the total.
        entries: Number of its entries.
        gates: Number of gates that multiply or own a slice; in the total every gate once.
        expected_open: Entries that are open in expectation over masks.
        realised_open: Entries that are open under the estimator, and kept by ``prune``.
        expected_l2: Expected sum of squared effective weights; plain sum of squares without gates.
    """

    name: str
    shape: tuple[int, ...]
    entries: int
    gates: int
    expected_open: float
    realised_open: int
    expected_l2: float

    @property
    def expected_density(self) -> float:
        """Expected share of open entries."""
        return self.expected_open / max(self.entries, 1)

    @property
    def realised_density(self) -> float:
        """Share of open entries under the estimator."""
        return self.realised_open / max(self.entries, 1)

    def cells(self) -> Cells:
        """The row as text, in the order of the headings."""
        shape = "×".join(map(str, self.shape))
        opened = (f"{self.expected_open:,.1f}", f"{self.realised_open:,}")
        density = (f"{self.expected_density:.2%}", f"{self.realised_density:.2%}")
        l2 = f"{self.expected_l2:.4g}"
        return (self.name, shape, f"{self.gates:,}", *opened, *density, l2)


class Counted(NamedTuple):
    """The sums over one parameter's entries."""

    expected_open: float
    realised_open: int
    expected_l2: float


@dataclass(frozen=True)
class Summary:
    """A row for every parameter and one for the total; ``print`` it, or show it in a notebook.

    Attributes:
        rows: One for each parameter in the spec, in its order.
        total: Their sum.
        estimator: The test-time gates behind the realised columns, or the density in its place.
    """

    rows: tuple[SummaryRow, ...]
    total: SummaryRow
    estimator: str

    def __getitem__(self, name: str) -> SummaryRow:
        for row in self.rows:
            if row.name == name:
                return row
        near = names.closest(name, [row.name for row in self.rows])
        raise KeyError(f"The summary has no row {name!r}{near}.")

    def __str__(self) -> str:
        cells = [row.cells() for row in (*self.rows, self.total)]
        widths = _widths([HEADINGS, *cells])
        head = _aligned(HEADINGS, widths)
        *body, foot = [_aligned(row, widths) for row in cells]
        rule = "-" * len(head)
        lines = [head, rule, *body, rule, foot, f"({self._caption()})"]
        if self.ungated_weights:
            lines.append(_ungated_note(self.ungated_weights))
        return "\n".join(lines)

    @property
    def ungated_weights(self) -> tuple[str, ...]:
        """Parameters without gates that look like weights: they have two or more dimensions."""
        names = [row.name for row in self.rows if row.gates == 0 and len(row.shape) > 1]
        return tuple(names)

    def _caption(self) -> str:
        if self.estimator in ESTIMATORS:
            return f"realised under the {self.estimator!r} estimator"
        return f"realised at {self.estimator}"

    def _repr_html_(self) -> str:
        head = _html_row(HEADINGS, "th")
        body = "".join(_html_row(row.cells(), "td") for row in self.rows)
        foot = _html_row(self.total.cells(), "th")
        notes = [self._caption()]
        if self.ungated_weights:
            notes.append(_ungated_note(self.ungated_weights))
        caption = escape("; ".join(notes))
        return (
            f"<table><caption>{caption}</caption><thead>{head}</thead><tbody>{body}</tbody>"
            f"<tfoot>{foot}</tfoot></table>"
        )


def _ungated_note(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"no gates on {shown}{more}"


def _widths(table: Sequence[Cells]) -> list[int]:
    """The width of every column."""
    columns = zip(*table, strict=True)
    return [max(map(len, column)) for column in columns]


def _aligned(cells: Cells, widths: Sequence[int]) -> str:
    """A row as text: names and shapes to the left, numbers to the right."""
    texts: list[str] = []
    for column, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        texts.append(cell.ljust(width) if column < 2 else cell.rjust(width))
    return "  ".join(texts)


def _html_row(cells: Cells, tag: str) -> str:
    texts = [f"<{tag}>{escape(cell)}</{tag}>" for cell in cells]
    return f"<tr>{''.join(texts)}</tr>"


def summary(
    params: Tree,
    gates: Tree,
    spec: GateSpec,
    estimator: MaskEstimator = "louizos",
    *,
    density: Density | None = None,
) -> Summary:
    """A table by parameter: open entries in expectation beside open entries under an estimator.

    Args:
        params: Parameters, flat or nested, before :func:`l0func.prune`.
        gates: ``{gate name: log_alpha}``.
        spec: The gate spec.
        estimator: The test-time gates: ``"louizos"``, ``"median"``, ``"mean"`` or ``"count"``.
        density: In place of an estimator, the share that stays, as for :func:`l0func.prune`.

    Returns:
        The table, as an object.

    Raises:
        ValueError: Params or gates do not fit the spec, a gate location is NaN, or a parameter
            has an entry that is NaN or infinite; or they are on the meta device, on two devices
            or inside torch.vmap.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> params = {"w": torch.ones(2, 3)}
        >>> spec = l0.gate_spec(params, {"w": l0.axis(0)})
        >>> gates = {"w": torch.tensor([-3.0, 3.0])}
        >>> table = l0.summary(params, gates, spec)
        >>> round(table.total.expected_open, 4), table.total.realised_open
        (3.5629, 3)
    """
    tensors, named = check_params(params, spec), check_gates(gates, spec)
    check_values(named)
    check_devices(tensors, named, spec)
    check_not_mapped("summary reads values", params=tensors, gates=named)
    check_has_values({**tensors, **named}, "summary")
    check_finite(tensors)
    with torch.no_grad():
        z = fixed_gates(named, spec, estimator, density)
        warn_if_pruned("summary", tensors, z, spec)
        counted = _counted(tensors, named, z, spec)
    gate_counts = {gate.name: gate.size for gate in spec.gates}
    rows: list[SummaryRow] = []
    for p in spec.parameters:
        rows.append(_row_of(p, gate_counts, counted[p.path]))
    choice = decision(spec, estimator, density)
    warn_if_closed(z, spec, choice)
    return Summary(tuple(rows), _total_row(rows, sum(gate_counts.values())), choice.name)


def _row_of(p: ParameterPlan, gate_counts: Mapping[str, int], counted: Counted) -> SummaryRow:
    gates_on = {binding.gate for binding in p.bindings}
    gates = sum(gate_counts[name] for name in gates_on)
    return SummaryRow(
        name=p.path,
        shape=p.shape,
        entries=p.size,
        gates=gates,
        expected_open=counted.expected_open,
        realised_open=counted.realised_open,
        expected_l2=counted.expected_l2,
    )


def _counted(
    params: Mapping[str, Tensor], gates: Gates, z: Gates, spec: GateSpec
) -> dict[str, Counted]:
    """The sums over every parameter; for DTensors one collective for all."""
    gated = list(spec.gated())
    opens = prob_open(gates, spec)
    expected = [opens[p.path] for p in gated]
    squares = effective_squares(params, gates, spec, spec.parameters)
    sums = full_sums(chain(expected, _open_under(z, gated), squares))
    numbers = {p.path: i for i, p in enumerate(gated)}
    found: dict[str, Counted] = {}
    for p, l2 in zip(spec.parameters, sums[2 * len(gated) :], strict=True):
        counts = (float(p.size), p.size)
        if p.path in numbers:
            i, copies = numbers[p.path], p.size // max(opens[p.path].numel(), 1)
            counts = (float(sums[i]) * copies, int(sums[len(gated) + i]) * copies)
        found[p.path] = Counted(*counts, float(l2))
    return found


def _open_under(z: Gates, gated: Sequence[ParameterPlan]) -> Iterator[Tensor]:
    """For every parameter, the open entries under test-time gates."""
    opens = {name: (value != 0).to(value.dtype) for name, value in z.items()}
    for p in gated:
        yield p.spread(opens, owned=True) != 0


def _total_row(rows: Sequence[SummaryRow], gates: int) -> SummaryRow:
    entries = sum(row.entries for row in rows)
    expected_open = sum(row.expected_open for row in rows)
    realised_open = sum(row.realised_open for row in rows)
    expected_l2 = sum(row.expected_l2 for row in rows)
    return SummaryRow(
        name="total",
        shape=(),
        entries=entries,
        gates=gates,
        expected_open=expected_open,
        realised_open=realised_open,
        expected_l2=expected_l2,
    )
