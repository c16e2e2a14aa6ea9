"""The table: what it says, how it looks, and that its totals are its rows."""

from __future__ import annotations

import re

import pytest
import torch

import l0func as l0
from l0func import random

PARAMS = {
    "fc1.weight": torch.randn(30, 40),
    "fc1.bias": torch.randn(30),
    "fc2.weight": torch.randn(1000, 30),
    "<odd>": torch.ones(2),
}
UNIT = l0.group(
    {"fc2.weight": l0.axis(1)}, owns={"fc1.weight": l0.axis(0), "fc1.bias": l0.axis(0)}
)
SPEC = l0.gate_spec(PARAMS, {"fc1.weight": l0.element()}, groups={"unit": UNIT})
GATES = l0.init_gates(random.key(0), SPEC, droprate=0.5, noise=2.0)
TABLE = l0.summary(PARAMS, GATES, SPEC, "median")


def test_rows_hold_expected_beside_realised():
    assert [row.name for row in TABLE.rows] == list(PARAMS)
    assert TABLE["fc1.weight"].gates == 30 * 40 + 30
    assert TABLE["fc1.bias"].gates == TABLE["fc2.weight"].gates == 30
    assert TABLE["<odd>"].gates == 0
    assert TABLE["<odd>"].expected_density == TABLE["<odd>"].realised_density == 1.0
    opened = l0.HardConcrete().prob_nonzero(GATES["unit"]).sum().item()
    assert TABLE["fc2.weight"].expected_open == pytest.approx(1000 * opened, rel=1e-5)
    still = (l0.HardConcrete().deterministic(GATES["unit"], "median") != 0).sum().item()
    assert TABLE["fc2.weight"].realised_open == 1000 * still
    with pytest.raises(KeyError, match="fc3"):
        TABLE["fc3"]


def test_the_total_is_the_sum_of_the_rows_and_agrees_with_the_costs():
    total = TABLE.total
    assert total.entries == sum(p.numel() for p in PARAMS.values())
    assert total.gates == 30 * 40 + 30
    assert total.realised_open == sum(row.realised_open for row in TABLE.rows)
    assert 1 - total.expected_density == pytest.approx(
        l0.expected_sparsity(GATES, SPEC).item(), abs=1e-6
    )
    assert total.expected_l2 == pytest.approx(
        l0.expected_l2(PARAMS, GATES, SPEC).item() + 2, rel=1e-5
    )


def test_the_text_has_aligned_columns_and_names_the_estimator():
    lines = str(TABLE).splitlines()
    assert len({len(line) for line in lines[:-1]}) == 1
    assert len(lines) == 1 + 1 + 4 + 1 + 1 + 1
    headings = "parameter, shape, gates, expected open, realised open, "
    headings += "expected density, realised density, L2"
    assert re.split(r"\s{2,}", lines[0].strip()) == headings.split(", ")
    assert "1000×30" in lines[4]
    assert "1,230" in lines[2]
    assert lines[-1] == "(realised under the 'median' estimator)"


def test_a_notebook_gets_a_table_with_names_escaped():
    html = TABLE._repr_html_()
    assert html.count("<tr>") == 6
    assert "&lt;odd&gt;" in html
    assert "<odd>" not in html
    assert "realised density" in html


def test_the_share_of_a_single_entry_is_whole_and_that_of_none_is_nothing():
    params = {"one": torch.ones(1), "none": torch.ones(0, 3)}
    table = l0.summary(params, {}, l0.gate_spec(params, {"*": None}))
    shares = [(row.realised_density, row.expected_density) for row in table.rows]
    assert shares == [(1.0, 1.0), (0.0, 0.0)]
