"""The union-find structure over labels, beside a naive twin of Python sets."""

from __future__ import annotations

import torch
from device import seeded_generator

from l0func.tracing.units import INPUT, NONE, Units


def test_ties_merge_the_same_units_as_sets_do():
    units = Units()
    labels = units.fresh(30)
    sets = [{int(label)} for label in labels]
    generator = seeded_generator(0)
    for _ in range(12):
        a, b = labels[torch.randint(30, (2, 3), generator=generator)]
        units.tie(a, b)
        for x, y in zip(a.tolist(), b.tolist(), strict=True):
            (first,) = [s for s in sets if x in s]
            (second,) = [s for s in sets if y in s]
            if first is not second:
                sets.remove(second)
                first |= second
    expected = [min(s) for label in labels.tolist() for s in sets if label in s]
    assert units.roots(labels).tolist() == expected
    assert 1 < len(sets) < 30


def test_tied_tensors_broadcast_and_elements_without_a_unit_stay_so():
    units = Units()
    a, b = units.fresh(2), units.fresh(3)
    a[1] = NONE
    units.tie(a[:, None], b)
    assert units.roots(b).tolist() == [int(a[0])] * 3
    assert units.roots(a).tolist() == [int(a[0]), NONE]


def test_a_request_to_fix_units_counts_only_if_its_step_is_used():
    units = Units()
    a, b, c = units.fresh(3).split(1)
    units.fix(a, "unused", step=0)
    units.fix(b, "used", step=1)
    units.fix(c, "always", step=None)
    units.settle(used={1})
    assert [units.reason(int(label)) for label in (a, b, c)] == [None, "used", "always"]


def test_units_that_merge_with_an_input_take_its_reason():
    units = Units()
    label = units.fresh(1)
    units.tie(label, torch.tensor([INPUT]))
    assert units.reason(units.root(int(label))) == "they are joined with an input of the module"
