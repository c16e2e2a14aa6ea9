"""Tables of times built by hand: interpolation by closed forms, text, and wrong uses."""

from __future__ import annotations

import json
import platform
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import l0func as l0
from l0func.costs.latency import ms_of
from l0func.costs.latency_text import LayerTime, WidthAxis
from l0func.costs.machine import Machine

CPU = torch.device("cpu")


def network():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 2))
    _, params, buffers = l0.make_functional(module)
    groups = l0.unit_groups(module, torch.ones(2, 4))
    return params, l0.gate_spec(params, groups=groups, buffers=buffers)


PARAMS, SPEC = network()
FIRST, SECOND = (1.0, 5.0, 9.0), (1.0, 3.0, 5.0)
GRID = ((1.0, 2.0, 3.0), (2.0, 4.0, 6.0), (3.0, 6.0, 10.0))


def hand_made(**changes):
    fields = {
        "axes": (WidthAxis("0.weight", 0, FIRST), WidthAxis("2.weight", 0, SECOND)),
        "layers": (
            LayerTime("2", (0, 1), GRID),
            LayerTime("4", (1,), ((0.5,), (0.5,), (1.5,))),
        ),
        "fixed": 0.25,
        "groups": {"0": 9, "2": 5},
        "shapes": {path: tuple(p.shape) for path, p in PARAMS.items()},
        "machine": Machine.here(CPU, "torch.float32", "(2, 4)"),
        "error": 0.05,
    }
    return l0.LatencyTable(**(fields | changes))


def gates_with(first: int, second: int):
    def some(size: int, n: int):
        return torch.where(torch.arange(size) < n, 5.0, -20.0)

    return {"0": some(9, first), "2": some(5, second)}


@pytest.mark.parametrize("i", range(3))
@pytest.mark.parametrize("j", range(3))
def test_at_a_grid_point_the_time_is_the_tables(i, j):
    gates = gates_with(int(FIRST[i]), int(SECOND[j]))
    expected = GRID[i][j] + (0.5, 0.5, 1.5)[j] + 0.25
    assert l0.realised_ms(gates, SPEC, hand_made()) == pytest.approx(expected)


def test_between_points_it_is_bilinear():
    # At (7, 4) the four corners of the last cell have equal weights.
    corners = (4 + 6 + 6 + 10) / 4
    real = l0.realised_ms(gates_with(7, 4), SPEC, hand_made())
    assert real == pytest.approx(corners + 1.0 + 0.25)


def test_without_units_it_is_the_time_of_the_first_point():
    opens = {"0": torch.zeros(9), "2": torch.zeros(5)}
    assert float(ms_of(opens, SPEC, hand_made())) == pytest.approx(1 + 0.5 + 0.25)
    assert hand_made().dense == pytest.approx(10 + 1.5 + 0.25)


def test_slopes_are_those_of_the_cell_and_at_a_point_their_mean():
    def slope(n: int):
        opens = {"0": (torch.arange(9) < n).double(), "2": torch.ones(5).double()}
        return torch.func.grad(lambda t: ms_of(opens | {"0": t}, SPEC, hand_made()))(opens["0"])

    below, above = (6 - 3) / 4, (10 - 6) / 4
    for n, expected in ((3, below), (7, above), (5, (below + above) / 2), (9, above)):
        torch.testing.assert_close(slope(n), torch.full((9,), expected).double())


def test_expected_milliseconds_interpolate_at_the_expected_numbers():
    gates = {"0": torch.zeros(9), "2": torch.zeros(5)}
    probability = float(l0.HardConcrete().prob_nonzero(torch.zeros(())))
    x, y = 9 * probability, 5 * probability
    assert 5 < x < 9
    assert 3 < y < 5
    a, b = (x - 5) / 4, (y - 3) / 2
    cell = (1 - a) * ((1 - b) * 4 + b * 6) + a * ((1 - b) * 6 + b * 10)
    expected = cell + 0.5 + b * 1.0 + 0.25
    assert float(l0.expected_ms(gates, SPEC, hand_made())) == pytest.approx(expected)


@pytest.mark.compiles
def test_expected_milliseconds_compile():
    gates = {"0": torch.zeros(9), "2": torch.zeros(5)}
    table = hand_made()
    plain = l0.expected_ms(gates, SPEC, table)
    compiled = torch.compile(lambda g: l0.expected_ms(g, SPEC, table), backend="eager")(gates)
    torch.testing.assert_close(compiled, plain)


def test_gates_that_remove_no_unit_change_no_time():
    rules = {"4.weight": l0.element()}
    both = l0.gate_spec(PARAMS, rules, groups=l0.unit_groups(_module(), torch.ones(2, 4)))
    gates = gates_with(7, 4) | {"4.weight": torch.full((2, 5), -20.0)}
    expected = l0.realised_ms(gates_with(7, 4), SPEC, hand_made())
    assert l0.realised_ms(gates, both, hand_made()) == expected


def _module():
    return nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 2))


def test_a_table_survives_its_text():
    table = hand_made()
    again = l0.LatencyTable.from_json(table.to_json())
    assert again.to_json() == table.to_json()
    assert again.axes == table.axes
    assert again.machine == table.machine
    gates = gates_with(6, 2)
    assert l0.realised_ms(gates, SPEC, again) == l0.realised_ms(gates, SPEC, table)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("fixed",), "1", "fixed is a finite number"),
        (("fixed",), None, "fixed is a finite number"),
        (("axes", 0, "nodes"), [1, 1, 2], "each above the last"),
        (("axes", 0, "nodes"), [1, 2], "equally many"),
        (("layers", 0, "axes"), [0, 2], "one or two numbers of axes"),
        (("layers", 0, "axes"), [0, 5], "one or two numbers of axes"),
        (("layers", 0, "axes"), [-1, 0], "one or two numbers of axes"),
        (("layers", 0, "axes"), [], "one or two numbers of axes"),
        (("layers", 0, "axes"), [0, 1, 0], "one or two numbers of axes"),
        (("layers", 0, "axes"), [0], "a number for each point"),
        (("layers", 0, "ms"), [[1, 2, 3]], "a number for each point"),
        (("layers", 0, "ms", 0, 0), True, "is a finite number"),
        (("machine", "threads"), 1.5, r"machine\.threads is an integer"),
        (("shapes", "0.weight"), [-1], "sizes from 0 on"),
        (("groups", "0"), "9", r"groups\.0 is an integer"),
        (("is_elsewhere",), 1, "is true or false"),
        (("colour",), 1, "unknown field 'colour'"),
    ],
)
def test_a_damaged_text_is_refused_with_its_place(place, value, message):
    record = json.loads(hand_made().to_json())
    inner = record
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(ValueError, match=message):
        l0.LatencyTable.from_json(json.dumps(record))


def test_what_is_no_text_of_a_table_is_refused():
    for text in ("", "{", "[]", SPEC.to_json()):
        with pytest.raises(ValueError, match=r"comes from LatencyTable\.to_json"):
            l0.LatencyTable.from_json(text)
    with pytest.raises(TypeError, match=r"LatencyTable\.to_json; got dict"):
        l0.LatencyTable.from_json({})


@pytest.mark.parametrize(
    "change",
    [
        {"processor": "Abacus"},
        {"device": "NVIDIA Z1"},
        {"torch": "9.9"},
        {"threads": 977},
        {"dtype": "torch.bfloat16"},
    ],
    ids=lambda change: next(iter(change)),
)
@pytest.mark.on_cpu
def test_a_table_of_another_machine_warns_wherever_it_is_used(change):
    here = hand_made()
    table = replace(here, machine=replace(here.machine, **change))
    (field, theirs), gates = *change.items(), gates_with(9, 5)
    mine = getattr(here.machine, field)
    message = re.escape(f"{field} {theirs!r} there, {mine!r} here") + r".*table\.elsewhere"
    for use in (
        lambda: l0.expected_ms(gates, SPEC, table),
        lambda: l0.realised_ms(gates, SPEC, table),
        lambda: l0.lagrangian(SPEC, 0.5, measure="ms", table=table),
        lambda: l0.realised_ms(gates, SPEC, l0.LatencyTable.from_json(table.to_json())),
    ):
        with pytest.warns(UserWarning, match=message):
            use()
    # Warnings are errors here.
    assert l0.realised_ms(gates, SPEC, table.elsewhere()) == l0.realised_ms(gates, SPEC, here)
    again = l0.LatencyTable.from_json(table.elsewhere().to_json())
    assert l0.realised_ms(gates, SPEC, again) == l0.realised_ms(gates, SPEC, here)


def test_a_machine_has_its_processors_name_as_the_system_gives_it():
    listed = Path("/proc/cpuinfo")
    text = listed.read_text(encoding="utf-8") if listed.exists() else ""
    models = re.findall(r"^model name\s*:(.*)$", text, re.MULTILINE)
    expected = models[0].strip() if models else platform.processor() or platform.machine()
    assert Machine.here(CPU, "torch.float32", "").processor == expected


def test_another_number_of_threads_warns():
    table, threads = hand_made(), torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        with pytest.warns(UserWarning, match=f"threads {threads} there, {threads + 1} here"):
            l0.realised_ms(gates_with(9, 5), SPEC, table)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"shapes": {"0.weight": (8, 4)}},
            r"another network's: '0\.weight' has the shape \(8, 4\) there, and \(9, 4\)",
        ),
        (
            {"axes": (WidthAxis("x", 0, FIRST),) * 2},
            "'x' is in the latency table and not in the spec.*another network's",
        ),
        ({"groups": {"0": 9}}, "group '2' with 5 units, and the latency table has no such group"),
        ({"groups": {"0": 9, "2": 4}}, "group '2' with 5 units, and the latency table has 4"),
    ],
)
def test_a_table_of_another_network_is_refused_wherever_it_is_used(changes, message):
    table, gates = hand_made(**changes), gates_with(9, 5)
    with pytest.raises(ValueError, match=message):
        l0.expected_ms(gates, SPEC, table)
    with pytest.raises(ValueError, match=message):
        l0.realised_ms(gates, SPEC, table)
    with pytest.raises(ValueError, match=message):
        l0.lagrangian(SPEC, 0.5, measure="ms", table=table)


def test_a_table_of_more_groups_leaves_the_others_open():
    groups = l0.unit_groups(_module(), torch.ones(2, 4))
    del groups["2"]
    spec = l0.gate_spec(PARAMS, groups=groups)
    real = l0.realised_ms({"0": gates_with(5, 5)["0"]}, spec, hand_made())
    assert real == pytest.approx(6 + 1.5 + 0.25)


def test_values_that_are_no_tables_are_refused():
    for table in (3.0, {}, hand_made().to_json()):
        with pytest.raises(TypeError, match=r"comes from l0func\.latency_table"):
            l0.realised_ms(gates_with(9, 5), SPEC, table)
        with pytest.raises(TypeError, match=r"comes from l0func\.latency_table"):
            l0.lagrangian(SPEC, 0.5, measure="ms", table=table)
