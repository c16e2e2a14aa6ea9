"""A layer whose shapes depend on more than two widths is named, with what its time leaves out."""

from __future__ import annotations

import warnings

import pytest

from l0func.timing.widths import say_what_is_left_out

KNOWN = {
    ("form.weight", 0): frozenset({"form"}),
    ("form.weight", 1): frozenset({"one"}),
    ("form.weight", 2): frozenset({"two"}),
}
TWO = (("form.weight", 0), ("form.weight", 1))


def test_a_third_width_is_named():
    groups = frozenset({"form", "one", "two"})
    words = r"in 'form' depend on more: .*dimension 1 of 'form.weight', and units of 'two' leave"
    with pytest.warns(UserWarning, match=words):
        say_what_is_left_out("form", groups, TWO, KNOWN)


def test_two_widths_need_no_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        say_what_is_left_out("form", frozenset({"form", "one"}), TWO, KNOWN)
