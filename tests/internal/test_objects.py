"""Objects taken apart and built again: classes, attributes and identities are those of before."""

from __future__ import annotations

import copy
import dataclasses
import enum
import functools
from typing import Any

import pytest
import torch
from output_kinds import KINDS, Attributes, DictWithNote, Factory, Kind, ModelOutput, OwnDict
from torch import Tensor, nn

from l0func.internal.hidden import find_tensor
from l0func.internal.objects import structure_of
from l0func.internal.outputs import copied, map_visible_tensors, visible_tensors

Y, H = torch.arange(3.0), torch.arange(2.0)


def doubled(tensor: Tensor) -> Tensor:
    return 2 * tensor


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_mapped_object_is_one_that_was_built_from_the_mapped_tensors(kind: Kind):
    ours = map_visible_tensors(doubled, kind.build(Y, H), "output")
    expected = kind.build(2 * Y, 2 * H)
    assert type(ours) is type(expected)
    torch.testing.assert_close(kind.read(ours), kind.read(expected))
    assert structure_of(ours).names == structure_of(expected).names


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_copy_shares_no_tensor_and_no_object(kind: Kind):
    value = kind.build(Y, H)
    twin = copied(torch.clone, value)
    assert twin is not value
    torch.testing.assert_close(kind.read(twin), (Y, H))
    assert not {id(t) for t in visible_tensors(twin)} & {id(Y), id(H)}


def test_what_is_no_tensor_stays():
    made = map_visible_tensors(doubled, DictWithNote("note", y=Y), "output")
    assert made.note == "note"
    assert map_visible_tensors(doubled, Factory(list, y=Y), "output")["new"] == []
    own = map_visible_tensors(doubled, OwnDict(y=Y), "output")
    own.z = 1
    assert own["z"] == 1
    assert own.y is own["y"]
    output = map_visible_tensors(doubled, ModelOutput(y=Y, h=H), "output")
    assert (list(output), output.loss) == (["y", "h"], None)
    assert output.y is output["y"]
    assert copy.deepcopy(output).y is not None


class Color(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Settings:
    name: str = "tiny"


WITHOUT = [Color.RED, Settings(), object(), len, Tensor, nn.ReLU(), {1: "x"}.keys(), range(3)]


@pytest.mark.parametrize("value", WITHOUT, ids=lambda value: type(value).__name__)
def test_a_value_without_tensors_stays_the_very_same(value: Any):
    assert map_visible_tensors(doubled, value, "output") is value
    assert map_visible_tensors(doubled, {"x": value, "y": Y}, "output")["x"] is value


def test_an_object_whose_attributes_are_only_answered_is_left_alone():
    class Answers:
        __slots__ = ()

        def __getattr__(self, name: str) -> Any:
            raise KeyError(name)

    value = Answers()
    assert copied(torch.clone, [value])[0] is value
    assert find_tensor(value) is None


def test_a_copy_of_objects_that_lead_to_each_other_ends():
    first, second = Attributes(Y, H), Attributes(Y, H)
    vars(first)["other"], vars(second)["other"] = second, [first, first]
    twin = copied(torch.clone, first)
    assert twin is not first
    assert twin.other is not second
    assert torch.equal(twin.other.h, H)


def closure(tensor: Tensor) -> Any:
    return lambda: tensor


def of_the_module() -> Tensor:
    return Y


WAYS = {
    "an attribute": (lambda: Attributes(3, [0, Y]), ".h[1]"),
    "a closure": (lambda: closure(Y), ".tensor"),
    "a global name": (lambda: of_the_module, None),
    "a default": (lambda: functools.partial(lambda x, y=H: x), ".__defaults__[0]"),
    "a method": (lambda: Attributes(Y, 0).__init__, ".__self__.y"),
    "a dict": (lambda: {"a": {1: Y}}, "['a'][1]"),
    "a module": (lambda: nn.Linear(2, 3), "._parameters['weight']"),
    "a list of a million numbers": (lambda: [list(range(10**6)), [[Y]]], "[1][0][0]"),
}


@pytest.mark.parametrize(("build", "way"), WAYS.values(), ids=WAYS)
def test_the_search_names_the_way_to_the_nearest_tensor(build: Any, way: str | None):
    assert find_tensor(build()) == way
