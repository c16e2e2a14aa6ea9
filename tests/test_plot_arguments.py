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


def test_a_name_that_is_no_parameter_is_named_with_the_nearest():
    with pytest.raises(KeyError, match="has no row 'v'; the closest is 'w'"):
        l0.plot.density(l0.summary(PARAMS, GATES, SPEC), names=["v"])


@pytest.mark.parametrize(("bins", "error"), [(0, ValueError), (-3, ValueError), (2.5, TypeError)])
def test_a_histogram_has_one_bin_at_least(bins, error):
    with pytest.raises(error, match=r"bins is .*got"):
        l0.plot.open_probability(GATES, SPEC, bins=bins)


@pytest.mark.parametrize("runs", [[(0.1, 90.0)], ((0.1, 90.0),), None])
def test_runs_without_labels_are_refused(runs):
    with pytest.raises(TypeError, match=r"by their labels, .*; got (list|tuple|NoneType)"):
        l0.plot.tradeoff(runs)


def test_a_spec_without_gates_has_no_histogram():
    with pytest.raises(ValueError, match="no gates: there is no probability to draw"):
        l0.plot.open_probability({}, l0.gate_spec(PARAMS, {"*": None}))
