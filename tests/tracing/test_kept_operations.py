"""Every operation that a trace follows has a use that keeps units by its name, or has none."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from kept_operations import ALONG, MOVES_ONLY, SPREAD, UNARY, placed, spread_case
from page_of_operations import page
from test_operations import CASES, FOLLOWED, IMAGES, KEPT, UNITS, Names, after_sigmoid, hidden
from torch import Tensor, nn
from traces import Between, traced

import l0func as l0


class Whole(nn.Module):
    """A reader of every entry, whatever its place."""

    def __init__(self, entries: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 2 * entries).reshape(2, entries))

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(1, -1) @ self.weight.T


def network(function: Any, kind: str) -> tuple[nn.Module, Tensor]:
    with Names() as names:
        entries = function(hidden(kind)).numel()
    assert names.seen
    torch.manual_seed(0)
    first = nn.Linear(4, UNITS) if kind == "tokens" else nn.Conv2d(1, UNITS, 1)
    x = torch.rand(2, 3, 4) if kind == "tokens" else torch.rand(2, 1, 4, 4)
    return Between(first, after_sigmoid(function), Whole(entries)), x


def reasons(function: Any, kind: str) -> set[str]:
    """Why a trace keeps the units before an operation."""
    net, x = network(function, kind)
    trace = traced(net, x)
    units = trace.units.roots(trace.slices["first.weight", 0].labels).tolist()
    return {trace.units.reason(unit) or "" for unit in units}


@pytest.mark.parametrize("name", SPREAD)
def test_a_unit_that_is_spread_over_others_is_kept_by_the_name_of_the_operation(name):
    case = spread_case(name)
    found = reasons(lambda h: case(h.clone()), "tokens")
    assert f"they are spread over other units by {name!r}" in found


@pytest.mark.parametrize("name", [name for name in ALONG if name in FOLLOWED])
def test_units_along_the_dimension_of_an_operation_are_kept_by_its_name(name):
    kind, dim = ALONG[name]
    case = (IMAGES if kind == "images" else CASES)[name]
    found = reasons(placed(case, kind, dim), kind)
    assert all(f"{name!r}" in reason for reason in found), found


@pytest.mark.parametrize("name", UNARY)
def test_an_operation_on_one_tensor_has_nothing_to_spread(name):
    packet = getattr(torch.ops.aten, name)
    overloads = [getattr(packet, o) for o in packet.overloads() if "out" not in o]
    assert any(sum("Tensor" in str(a.type) for a in op._schema.arguments) == 1 for op in overloads)


def test_every_operation_keeps_units_somewhere_or_says_why_not():
    assert not MOVES_ONLY & {*SPREAD, *UNARY, *ALONG, *KEPT}
    assert FOLLOWED == FOLLOWED & {*SPREAD, *UNARY, *ALONG, *KEPT, *MOVES_ONLY}
    assert {name for name in page.refusals_of_operations() if name in FOLLOWED} == FOLLOWED


PLACES = [
    (name, kind, dim)
    for kind, cases, dims in (("tokens", CASES, (0, 1)), ("images", IMAGES, (2, 3)))
    for name in cases
    for dim in dims
    if kind == "images" or dim == 1
]


@pytest.mark.parametrize(("name", "kind", "dim"), PLACES)
def test_units_in_any_place_are_removed_exactly_or_kept(name, kind, dim):
    cases = CASES if kind == "tokens" else IMAGES
    function = placed(cases[name], kind, dim)
    try:
        out = function(hidden(kind))
    except (RuntimeError, IndexError, ValueError):
        pytest.skip("torch refuses the operation on these sizes")
    if out.is_complex():
        pytest.skip("the reader takes real numbers")
    net, x = network(function, kind)
    fn, params, buffers = l0.make_functional(net.eval())
    try:
        groups = l0.unit_groups(net, x)
    except ValueError as kept:
        groups = str(kept)
    if isinstance(groups, str):
        assert re.search(r"No units of this Between can be removed\..* 'first.weight': \w", groups)
        return
    spec = l0.gate_spec(params, {"*": None}, groups=groups)
    gates = l0.init_gates(l0.random.key(0), spec)
    for gate in gates.values():
        gate.copy_(torch.where(torch.arange(gate.numel()) % 2 == 0, 20.0, -20.0))
    pruned = l0.prune(params, gates, spec)
    smaller, state, others = l0.compact(fn, params, gates, buffers, spec)
    assert state["first.weight"].shape[0] < UNITS
    torch.testing.assert_close(
        smaller(state, others, x), fn(pruned, buffers, x), rtol=1e-4, atol=1e-5
    )
