"""Formulas for the page distributed.md: bytes held and sent for the gates in each layout.

``python docs/distributed_bytes.py`` writes the tables on the page; a test measures them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parent / "distributed.md"
FLOAT = 4
HELD = 4
"""Numbers held for a gate: its location, its gradient, and Adam's two moments."""


class Send(NamedTuple):
    """One collective for gates."""

    kind: str
    """``all-reduce``, ``all-gather`` or ``reduce-scatter``."""

    gates: int
    """The gates in the whole tensor."""

    n: int
    """The processes that take part."""

    @property
    def size(self) -> int:
        """The bytes of the whole tensor."""
        return FLOAT * self.gates

    @property
    def by_each(self) -> float:
        """The bytes that each process sends in a ring."""
        rounds = 2 if self.kind == "all-reduce" else 1
        return rounds * self.size * (self.n - 1) / self.n


@dataclass(frozen=True)
class Gates:
    """Gates on one weight of shape (rows, columns)."""

    rule: str
    """``element``, ``rows`` or ``columns``: a gate for each entry, row or column."""

    rows: int
    columns: int

    @property
    def count(self) -> int:
        """The number of gates."""
        return self.held_in(self.rows, self.columns)

    def held_in(self, rows: int, columns: int) -> int:
        """The number of gates on some rows and columns."""
        return {"element": rows * columns, "rows": rows}.get(self.rule, columns)

    def first(self, n: int) -> int:
        """The first part if the gates' own first dimension is cut in n."""
        if self.rule == "columns":
            return ceil(self.columns / n)
        return self.held_in(ceil(self.rows / n), self.columns)

    def along(self, n: int) -> int:
        """The first part if gates are cut as rows are, and those on columns not at all."""
        return self.held_in(ceil(self.rows / n), self.columns)


class Cost(NamedTuple):
    """The cost of gates to one process."""

    gates: int
    """Those that it holds."""

    sends: tuple[Send, ...]
    """The collectives of a step."""

    @property
    def held(self) -> int:
        """The bytes that it holds."""
        return FLOAT * HELD * self.gates


def copies(gates: Gates, n: int) -> Cost:
    """Every process holds all gates, and gradients are averaged."""
    return Cost(gates.count, (Send("all-reduce", gates.count, n),))


def fsdp(gates: Gates, n: int) -> Cost:
    """FSDP cuts the gates' first dimension, and pads it."""
    padded = n * gates.first(n)
    sends = (Send("all-gather", padded, n), Send("reduce-scatter", padded, n))
    return Cost(gates.first(n), sends)


def tensor_parallel(gates: Gates, n: int) -> Cost:
    """Every process holds all gates; each has the gradients for its rows."""
    if gates.rule == "columns":
        return copies(gates, n)
    return Cost(gates.count, (Send("all-gather", n * gates.along(n), n),))


def placed(gates: Gates, n: int) -> Cost:
    """Gates lie as the rows of their weight."""
    sends = copies(gates, n).sends if gates.rule == "columns" else ()
    return Cost(gates.along(n), sends)


def placed_copies(gates: Gates, n: int) -> Cost:
    """As before, in two copies."""
    return placed(gates, n // 2)


def placed_square(gates: Gates, n: int) -> Cost:
    """The weight's rows are cut in two, and its columns in n/2."""
    own = gates.held_in(ceil(gates.rows / 2), ceil(gates.columns / (n // 2)))
    if gates.rule == "element":
        return Cost(own, ())
    return Cost(own, (Send("all-reduce", own, n // 2 if gates.rule == "rows" else 2),))


class Layout(NamedTuple):
    """A layout: its name on the page, its formula, and its own messages."""

    name: str
    cost: Callable[[Gates, int], Cost]
    messages: bool
    """Whether gates have collectives of their own; else they ride in those of the weights."""

    sizes: tuple[int, ...] = (2, 3, 4)


LAYOUTS = {
    "ddp": Layout("`DistributedDataParallel(net)`", copies, False),
    "reduce": Layout("`reduce=l0.all_reduce_mean`", copies, False),
    "whole": Layout("`fully_shard(net)`", fsdp, False),
    "layers": Layout("`fully_shard` on layers, then on `net`", fsdp, True),
    "parallel": Layout("`parallelize_module` inside an `L0Module`", tensor_parallel, True),
    "placed": Layout("`place_gates`, weights cut by rows", placed, True),
    "copies": Layout(
        "`place_gates`, two copies of weights cut by rows", placed_copies, True, (4,)
    ),
    "square": Layout(
        "`place_gates`, weights cut by rows and by columns", placed_square, True, (4,)
    ),
}
RULES = {"element": "entries", "rows": "rows", "columns": "columns"}
SHAPE = (48, 24)
PROCESSES = 4


def measured_table() -> str:
    """The table that a test measures: gates on one weight, held and sent by each process."""
    n = PROCESSES
    counts = [Gates(rule, *SHAPE).count for rule in RULES]
    heads = [f"{count} gates on {RULES[rule]}" for rule, count in zip(RULES, counts, strict=True)]
    lines = [_row(["layout", *heads]), _row(["---"] * 4)]
    for layout in LAYOUTS.values():
        cells = [_cell(layout.cost(Gates(rule, *SHAPE), n)) for rule in RULES]
        lines.append(_row([layout.name, *cells]))
    return "\n".join(lines)


def _cell(cost: Cost) -> str:
    sent = sum(send.by_each for send in cost.sends)
    return f"{cost.held:,} / {sent:,.0f}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def paper_table() -> str:
    """1,000 processes, and 10⁹ gates on the entries of square weights, or one a row of them."""
    n, billion = 1000, 10**9
    lines = [_row(["layout", "gates a GPU", "held", "sent in a step", "at 50 GB/s"])]
    lines.append(_row(["---"] * 5))
    for name in ("ddp", "whole", "parallel", "placed"):
        # Sizes that n divides: one weight stands for all.
        cost = LAYOUTS[name].cost(Gates("element", billion // 1000, 1000), n)
        sent = sum(send.by_each for send in cost.sends)
        cells = [LAYOUTS[name].name, f"{cost.gates:,}", f"{cost.held / 1e9:,.3g} GB"]
        cells += [f"{sent / 1e9:,.3g} GB", f"{sent / 50e9:,.2g} s"]
        lines.append(_row(cells))
    return "\n".join(lines)


def page() -> str:
    """The page with its tables as the formulas give them."""
    text = PAGE.read_text()
    for name, table in (("measured", measured_table()), ("paper", paper_table())):
        pattern = rf"(<!-- {name} -->\n).*?(\n<!-- end -->)"
        text, count = re.subn(pattern, rf"\g<1>{table}\g<2>", text, flags=re.S)
        assert count == 1, name
    return text


if __name__ == "__main__":
    PAGE.write_text(page())
