"""What the gates promise and what they keep, side by side, for every parameter."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import torch

from l0func.costs.expected import prob_open, squares_by_parameter
from l0func.gates.checks import MaskEstimator, check_gates, check_params, check_values
from l0func.gates.masks import deterministic_gates
from l0func.gates.prune import open_entries
from l0func.internal.tree import Tree
from l0func.spec.plan import GateSpec

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
class Row:
    """One parameter, or the total.

    Attributes:
        name: Path of the parameter.
        shape: Its shape; empty for the total.
        entries: Number of its entries.
        gates: Number of gates that multiply or own a slice of it; in the total every gate once.
        expected_open: Entries that are open in expectation over masks.
        realised_open: Entries that are open under the estimator: what ``prune`` keeps.
        expected_l2: Expected sum of squares of the effective weights; plain sum of squares without
            gates.
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
        """Expected share of entries that are open."""
        return self.expected_open / max(self.entries, 1)

    @property
    def realised_density(self) -> float:
        """Share of entries that are open under the estimator."""
        return self.realised_open / max(self.entries, 1)

    def cells(self) -> tuple[str, ...]:
        """The row as text, in the order of the headings."""
        return (
            self.name,
            "×".join(map(str, self.shape)),
            f"{self.gates:,}",
            f"{self.expected_open:,.1f}",
            f"{self.realised_open:,}",
            f"{self.expected_density:.2%}",
            f"{self.realised_density:.2%}",
            f"{self.expected_l2:.4g}",
        )


@dataclass(frozen=True)
class Summary:
    """A row for every parameter and one for the total; ``print`` it, or show it in a notebook.

    Attributes:
        rows: One for each parameter that the spec saw, in its order.
        total: Their sum.
        estimator: The test-time gates that the realised columns are about.
    """

    rows: tuple[Row, ...]
    total: Row
    estimator: MaskEstimator

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def __str__(self) -> str:
        table = [HEADINGS, *(row.cells() for row in (*self.rows, self.total))]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(w) if i < 2 else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
            )
            for cells in table
        ]
        rule = "-" * len(lines[0])
        body = [lines[0], rule, *lines[1:-1], rule, lines[-1]]
        return "\n".join([*body, f"(realised under the {self.estimator!r} estimator)"])

    def _repr_html_(self) -> str:
        def line(cells: tuple[str, ...], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        body = "".join(line(row.cells(), "td") for row in self.rows)
        head, foot = line(HEADINGS, "th"), line(self.total.cells(), "th")
        caption = f"<caption>realised under the {escape(repr(self.estimator))} estimator</caption>"
        return f"<table>{caption}<thead>{head}</thead><tbody>{body}</tbody><tfoot>{foot}</tfoot></table>"


def summary(
    params: Tree, gates: Tree, spec: GateSpec, estimator: MaskEstimator = "louizos"
) -> Summary:
    """A table by parameter: what is open in expectation beside what is open under an estimator.

    Args:
        params: Parameters, flat or nested.
        gates: ``{gate name: log_alpha}``.
        spec: The plan.
        estimator: The test-time gates: ``"louizos"``, ``"median"``, ``"mean"`` or ``"count"``.

    Returns:
        The table, as an object.

    Raises:
        ValueError: Params or gates do not fit the spec, or a gate location is NaN.
    """
    tensors, named = check_params(params, spec), check_gates(gates, spec)
    check_values(named)
    with torch.no_grad():
        expected = {
            path: p.sum() * (tensors[path].numel() / p.numel())
            for path, p in prob_open(named, spec).items()
        }
        realised = {
            path: e.sum()
            for path, e in open_entries(deterministic_gates(named, spec, estimator), spec).items()
        }
        squares = squares_by_parameter(tensors, named, spec)
    rows: list[Row] = []
    sizes = {gate.name: torch.Size(gate.shape).numel() for gate in spec.gates}
    for p in spec.parameters:
        row = Row(
            p.path,
            p.shape,
            p.size,
            sum(sizes[name] for name in {b.gate for b in p.bindings}),
            float(expected.get(p.path, torch.tensor(float(p.size)))),
            int(realised.get(p.path, torch.tensor(p.size))),
            float(squares[p.path]),
        )
        rows.append(row)
    total = Row(
        "total",
        (),
        sum(row.entries for row in rows),
        sum(sizes.values()),
        sum(row.expected_open for row in rows),
        sum(row.realised_open for row in rows),
        sum(row.expected_l2 for row in rows),
    )
    return Summary(tuple(rows), total, estimator)
