"""Plots refuse values that they would draw wrongly, in words of the library."""

from __future__ import annotations

import math

import pytest
import torch

import l0func as l0

PARAMS = {"w": torch.ones(3, 4)}
SPEC = l0.gate_spec(PARAMS)
GATES = {"w": torch.zeros(3, 4)}


@pytest.mark.parametrize("given", [PARAMS, None, "w"])
def test_density_names_what_is_no_summary(given):
    with pytest.raises(TypeError, match=r"table from l0func.summary\(params, gates, spec\); got"):
        l0.plot.density(given)


def test_one_name_is_a_list_with_one_name():
    table = l0.summary(PARAMS, GATES, SPEC)
    ax = l0.plot.density(table, names="w")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["w"]


def test_gates_that_are_nan_are_not_drawn_as_decided():
    with pytest.raises(ValueError, match="12 of 12 gate locations of 'w' are NaN"):
        l0.plot.open_probability({"w": torch.full((3, 4), math.nan)}, SPEC)


def test_a_spec_without_gates_has_no_histogram():
    with pytest.raises(ValueError, match="no gates: there is no probability to draw"):
        l0.plot.open_probability({}, l0.gate_spec(PARAMS, {"*": None}))
