"""Gate values on some of a parameter's entries, from some of the gates: as entry by entry."""

from __future__ import annotations

import math
from itertools import product

import oracles
import pytest
import torch

import l0func as l0
from l0func.internal.sharding import as_index
from l0func.spec.sharded_spread import Factor, spread_on_own

RULES = [
    *(l0.element(), l0.whole(), l0.axes(0, 1), l0.axes(-1, 0)),
    *(l0.axis(0), l0.axis(-1), l0.axis(0, 1, 4), l0.axis(1, 2)),
    *(l0.blocks(0, 2), l0.blocks(1, 2, start=2), l0.blocks(-2, 3, stop=3), l0.tiles(0, 3)),
    *(l0.blocks(0, 2, sharers=2), l0.blocks(0, 2, start=2, sharers=3)),
]


def indices(*numbers):
    """What a process owns is counted on the CPU."""
    return torch.tensor(numbers, device="cpu")


# Runs of indices, indices in strides as fully_shard lays them out, and none.
ROWS = [range(6), range(3), range(3, 6), indices(0, 1, 4), indices(2, 5), range(0)]
COLUMNS = [range(4), range(2, 4), indices(0, 3), range(1, 2)]
SHAPE = (6, 4)


def needed(rule, own):
    """The indices along each dimension of the gates that are on these entries, and no others."""
    if isinstance(rule, l0.element | l0.axes):
        return own
    if isinstance(rule, l0.whole):
        return [range(1)]
    numbers = set()
    for index in as_index(own[rule.dim % 2]).tolist():
        entry = (index, 0) if rule.dim % 2 == 0 else (0, index)
        numbers |= oracles.gates_of(rule, SHAPE, entry)
    first, last = min(numbers, default=0), max(numbers, default=-1)
    is_run = len(numbers) == last + 1 - first
    return [range(first, last + 1) if is_run else indices(*sorted(numbers))]


def on_entries(rule, values, own, meet):
    """The value on each entry, or several that meet, or 1 without any."""
    found = []
    for entry in product(*(as_index(part).tolist() for part in own)):
        numbers = oracles.gates_of(rule, SHAPE, entry)
        on_it = [values.flatten()[number].item() for number in sorted(numbers)]
        found.append(meet(on_it) if on_it else 1.0)
    return torch.tensor(found).reshape([len(part) for part in own])


def any_open(values):
    return 1 - math.prod(1 - value for value in values)


def part_of(values, held):
    for dim, part in enumerate(held):
        values = values.index_select(dim, as_index(part).to(values.device))
    return values


@pytest.mark.parametrize("holds_all", [True, False])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_part_of_the_gates_is_spread_as_on_each_of_a_parts_entries(rule, holds_all):
    sizes = rule.gates(SHAPE)
    values = l0.random.uniform(l0.random.key(0), sizes)
    for own in product(ROWS, COLUMNS):
        held = [range(size) for size in sizes] if holds_all else needed(rule, own)
        shares = getattr(rule, "sharers", 1) > 1
        if shares and not isinstance(held[0], range):
            continue
        for is_level, meet in ((False, any_open), (True, max)):
            factor = Factor("g", rule, part_of(values, held), True, (), is_level)
            found = spread_on_own(factor, held, own, SHAPE)
            expected = on_entries(rule, values, own, meet)
            assert found.dim() == 2
            torch.testing.assert_close(found.expand(expected.shape), expected)


@pytest.mark.parametrize(("rule", "earlier"), [(l0.axis(0), l0.axis(1)), (l0.axis(1), l0.axis(0))])
@pytest.mark.parametrize("rows", [range(4), range(2, 4), indices(0, 3)], ids=str)
def test_a_gate_that_meets_itself_on_an_entry_of_a_part_counts_once(rule, earlier, rows):
    values = torch.tensor([0.2, 0.4, 0.6, 0.8])
    own = [rows, range(4)]
    factor = Factor("g", rule, values, True, (earlier,))
    found = spread_on_own(factor, [range(4)], own, (4, 4))
    once = torch.where(torch.eye(4).bool(), 1.0, rule.spread(values, (4, 4)))
    assert torch.equal(found, once[as_index(rows)])
