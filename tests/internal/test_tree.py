"""Pytrees of params: dotted paths, the way back, and patterns over them."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from l0func.internal import names, tree
from l0func.internal.mapped import flatten_mapped


class Layer(NamedTuple):
    weight: Tensor
    bias: Tensor | None


def nested() -> dict[str, object]:
    a, b, c, d, e = torch.arange(5.0)
    return {
        "z": Layer(a, None),
        "a": [b, {"x": c}],
        "o": OrderedDict(q=d),
        "registered": deque([defaultdict(list, {"k": e})]),
    }


def test_paths_are_dotted_and_in_the_order_of_the_tree():
    named = tree.leaves(nested())
    assert list(named) == ["z.weight", "a.0", "a.1.x", "o.q", "registered.0.k"]
    assert [value.item() for value in named.values()] == [0, 1, 2, 3, 4]


def test_a_rebuilt_tree_has_the_types_and_places_of_the_first():
    doubled = tree.rebuild(
        nested(), {path: 2 * value for path, value in tree.leaves(nested()).items()}
    )
    assert isinstance(doubled["z"], Layer)
    assert doubled["z"].bias is None
    assert isinstance(doubled["o"], OrderedDict)
    assert isinstance(doubled["registered"], deque)
    assert {path: value.item() for path, value in tree.leaves(doubled).items()} == {
        "z.weight": 0, "a.0": 2, "a.1.x": 4, "o.q": 6, "registered.0.k": 8,
    }  # fmt: skip


def test_a_flat_dict_is_copied_and_not_changed():
    flat = {"fc.weight": torch.ones(2)}
    named = tree.leaves(flat)
    assert named == flat
    assert named is not flat


def test_a_tree_taken_apart_by_rows_comes_back_whole():
    x, y = torch.ones(3, 5), torch.ones(2)
    value = {"x": x, "rest": (y, None, 3, "text")}
    parts = flatten_mapped(value, {"x": -1, "rest": None}, "in_dims")
    assert (parts.dims, len(parts.tensors), len(parts.unmapped)) == ([1], 1, 1)
    again = parts.rebuilt([2 * x])
    assert torch.equal(again["x"], 2 * x)
    assert again["rest"] == (y, None, 3, "text")


def test_the_first_pattern_that_matches_decides():
    patterns = {"a.weight": 1, "a.*": 2, "*": 3}
    assert names.per_path(patterns, ["a.weight", "a.bias", "b"], "x", "path") == {
        "a.weight": 1,
        "a.bias": 2,
        "b": 3,
    }
    assert names.per_path(7, ["a", "b"], "x", "path") == {"a": 7, "b": 7}
    with pytest.raises(ValueError, match=r"'c\*' matches no path"):
        names.per_path({"c*": 1, "*": 2}, ["a"], "x", "path")


def test_the_closest_name_is_the_nearest_by_spelling():
    assert names.closest("wieght", ["bias", "weight"]) == "; the closest is 'weight'"
    assert names.closest("anything", []) == ""
