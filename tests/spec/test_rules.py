"""Gate rules: as text and as records."""

from __future__ import annotations

import math
from itertools import product

import oracles
import pytest

import l0func as l0
from l0func.spec import rule_records


def test_rules_print_as_they_are_written():
    assert repr(l0.axis(0)) == "axis(dim=0)"
    assert repr(l0.blocks(1, 2, stop=4)) == "blocks(dim=1, size=2, stop=4)"
    for rule in (l0.axes(0, 1), l0.whole(), l0.tiles(0, 4)):
        assert rule_records.rule_from_dict(rule.to_dict()) == rule


RULES = [
    *(l0.element(), l0.whole(), l0.axis(0), l0.axis(1), l0.axis(-1, 1, 3), l0.axis(0, 2)),
    *(l0.axes(0, 1), l0.axes(1), l0.blocks(0, 2), l0.blocks(1, 2, stop=4), l0.tiles(0, 2)),
]


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("shape", [(4, 6), (6, 4, 3), (4, 4)], ids=str)
def test_the_number_of_a_slice_is_that_of_all_its_entries_or_none(rule, shape):
    index = rule.index(shape).expand(shape)
    for dim, length in enumerate(shape):
        for i in range(length):
            own = index.select(dim, i).unique().tolist()
            single = own[0] if len(own) == 1 else -1
            # A rule may leave a slice to its entries, as for gates of all dimensions.
            assert rule.number(i, dim, shape) in {single, -1}
            if dim == getattr(rule, "dim", None):
                assert rule.number(i, dim, shape) == single


PARTS = [
    *(l0.axis(0, 3), l0.axis(1, 1, 4), l0.axis(-2, 1), l0.blocks(0, 3, start=3)),
    *(l0.blocks(-1, 2, start=2), l0.blocks(1, 1, 1, 4), l0.blocks(0, 1, start=5, sharers=3)),
]


@pytest.mark.parametrize("rule", [*RULES, *PARTS], ids=repr)
def test_a_rule_has_the_gates_of_its_entries_and_no_others(rule):
    shape = (6, 4)
    index = rule.index(shape).expand(shape)
    found = set()
    for entry in product(*map(range, shape)):
        numbers = oracles.gates_of(rule, shape, entry)
        if getattr(rule, "sharers", 1) == 1:
            assert index[entry].item() == min(numbers, default=-1)
        found |= numbers
    assert found == set(range(math.prod(rule.gates(shape))))
