"""Rules and groups are checked at the call that makes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import l0func as l0

PARAMS = {"w": torch.zeros(6, 8), "v": torch.zeros(3, 6)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: l0.axis("0"), r"axis's dim is an integer; got '0' \(str\)"),
        (lambda: l0.axis(True), "axis's dim is an integer; got True"),
        (lambda: l0.axis(0.0), r"axis's dim is an integer; got 0.0 \(float\)"),
        (lambda: l0.axis(0, 1.5), "axis's start is an integer"),
        (lambda: l0.axis(0, 1, "3"), "axis's stop is an integer"),
        (lambda: l0.axis(None), "axis's dim is an integer"),
        (lambda: l0.axes([0, 1]), r"one by one: axes\(0, 1\)"),
        (lambda: l0.axes((0, 1)), r"one by one: axes\(0, 1\)"),
        (lambda: l0.axes(0, "1"), "A dimension of axes is an integer"),
        (lambda: l0.blocks(0, 2.0), "blocks's size is an integer"),
        (lambda: l0.blocks(0, True), "blocks's size is an integer; got True"),
        (lambda: l0.blocks(0, 2, sharers="2"), "blocks's sharers is an integer"),
        (lambda: l0.tiles([4, 4], 1), "tiles's dim is an integer"),
        (lambda: l0.tiles(0, "3"), "tiles's n is an integer"),
    ],
)
def test_a_rule_with_another_setting_than_an_integer_is_refused_where_it_is_made(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_integers_of_numpy_are_plain_integers_in_a_rule_and_in_its_file():
    rule = l0.axis(np.int64(-1), np.int32(1), stop=np.int64(5))
    assert rule == l0.axis(-1, 1, 5)
    spec = l0.gate_spec(PARAMS, {"w": rule})
    assert l0.GateSpec.from_json(spec.to_json()) == spec
    assert l0.axes(np.int64(0), np.int64(1)) == l0.axes(0, 1)


@pytest.mark.parametrize("given", ["w", ["w"], l0.axis(0), 3])
def test_a_group_over_anything_but_a_mapping_is_refused_where_it_is_made(given):
    with pytest.raises(TypeError, match=r"multiplies are \{path: rule\}; got"):
        l0.group(given)
    with pytest.raises(TypeError, match=r"owns are \{path: rule\}; got"):
        l0.group({"w": l0.axis(0)}, given)


@pytest.mark.parametrize("nothing", [None, [], ()])
def test_rules_that_gate_nothing_are_refused_however_they_say_nothing(nothing):
    with pytest.raises(ValueError, match="gate nothing"):
        l0.gate_spec(PARAMS, {"w": nothing})
    assert not l0.gate_spec(PARAMS, {"*": nothing}).gates
