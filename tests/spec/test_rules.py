"""Gate rules: as text and as records."""

from __future__ import annotations

import l0func as l0
from l0func.spec import rule_records


def test_rules_print_as_they_are_written():
    assert repr(l0.axis(0)) == "axis(dim=0)"
    assert repr(l0.blocks(1, 2, stop=4)) == "blocks(dim=1, size=2, stop=4)"
    for rule in (l0.axes(0, 1), l0.whole(), l0.tiles(0, 4)):
        assert rule_records.rule_from_dict(rule.to_dict()) == rule
