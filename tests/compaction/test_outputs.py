"""Compaction of modules that return objects: the units of every tensor in an output stay."""

from __future__ import annotations

import functools
import time
import weakref
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from device import marked_on_cpu, seeded_generator
from output_kinds import KINDS, Attributes, Kind, LeavesOut, Returns
from torch import Tensor, nn
from torch.func import functional_call

import l0func as l0


def example() -> Tensor:
    return torch.randn(4, 4, generator=seeded_generator(0), dtype=torch.float64)


def returning(build: Any) -> nn.Module:
    torch.manual_seed(0)
    return Returns(build).double().eval()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_tensor_in_any_kind_of_output_keeps_its_units_and_values(kind: Kind):
    net, x = returning(kind.build), example()
    groups = l0.unit_groups(net, x)
    assert groups.sizes == {"a": 6}
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, groups=groups)
    gates = {"a": torch.tensor([3, -9, 3, 3, -9, 3]).double()}
    small = l0.compact(fn, params, gates, buffers, spec, example_inputs=x)
    assert small.params["a.weight"].shape == (4, 4)
    expected = functional_call(net, l0.prune(params, gates, spec), (x,))
    for ours, pruned in zip(kind.read(l0.to_module(*small)(x)), kind.read(expected), strict=True):
        torch.testing.assert_close(ours, pruned)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_multiply_adds_do_not_depend_on_the_kind_of_output(kind: Kind):
    fn, params, buffers = l0.make_functional(returning(kind.build))
    assert l0.count_macs(fn, params, buffers, example()).total == 4 * (4 * 6 + 6 * 5 + 5 * 3)


def generate(y: Tensor, h: Tensor) -> Any:
    yield y
    yield h


class Closes:
    """An object that owns a resource, so that it has no copy."""

    def __init__(self, h: Any) -> None:
        self.h = h

    def __del__(self) -> None:
        pass


h_alive: list[Tensor] = []


class Pair(NamedTuple):
    y: Tensor


class PairAndMore(Pair):
    pass


def with_attribute(y: Tensor, h: Tensor) -> PairAndMore:
    pair = PairAndMore(y)
    vars(pair)["h"] = h
    return pair


def tensor_with_attribute(y: Tensor, h: Tensor) -> Tensor:
    vars(y)["h"] = h
    return y


OPAQUE = {
    "a function": (lambda y, h: {"y": y, "f": lambda: h}, r"output\['f'\] is a function.* \.h"),
    "a partial": (lambda y, h: (y, functools.partial(torch.add, h)), r"output\[1\] is a partial"),
    "a generator": (generate, "output is a generator"),
    "an iterator": (lambda y, h: [y, iter([h])], r"output\[1\] is a list_iterator"),
    "a view of a dict": (lambda y, h: {"y": y, "h": h}.values(), "output is a dict_values"),
    "a set": (lambda y, h: {y, h}, "output is a set"),
    "a method": (lambda y, h: (y, h.sum), r"output\[1\] is a builtin"),
    "an object with a finalizer": (lambda y, h: [y, {"c": Closes(h)}], r"\[1\]\['c'\].* in \.h,"),
    "a module": (lambda y, h: (y, with_tensor(nn.ReLU(), h)), r"is a ReLU, .* in \.h,"),
    "an attribute of a tensor": (tensor_with_attribute, r"output is a Tensor, .* in \['h'\]"),
    "a registered class": (LeavesOut, r"registration leaves out, such as output\.h\. Register"),
    "a weak reference": (
        lambda y, h: (y, weakref.ref(h), h_alive.append(h)),
        r"output\[1\] is a (ReferenceType|weakref)",
    ),
    "numpy's objects": (lambda y, h: (y, np.array([h, None], dtype=object)), "is a ndarray"),
    "an error": (lambda y, h: (y, ValueError(h)), r"output\[1\] is a ValueError"),
}


def with_tensor(module: nn.Module, h: Tensor) -> nn.Module:
    module.h = h
    return module


@pytest.mark.filterwarnings("ignore:The input object of type .Tensor.:FutureWarning")
@pytest.mark.parametrize("name", marked_on_cpu(OPAQUE, {"numpy's objects"}))
def test_an_object_that_hides_units_is_refused_by_its_place_and_kind(name: str):
    build, match = OPAQUE[name]
    net = returning(build)
    with pytest.raises(TypeError, match=match):
        l0.unit_groups(net, example())


@pytest.mark.on_cpu
@pytest.mark.parametrize("leave", [Tensor.numpy, Tensor.tolist], ids=["array", "list"])
def test_units_that_leave_as_an_array_or_a_list_of_numbers_stay(leave: Any):
    groups = l0.unit_groups(returning(lambda y, h: {"y": y, "h": leave(h)}), example())
    assert groups.sizes == {"a": 6}
    assert "the outputs differ" in groups.refused["b.weight"]


def test_units_in_an_attribute_beside_named_fields_stay():
    assert l0.unit_groups(returning(with_attribute), example()).sizes == {"a": 6}


def test_examples_without_rows_are_refused():
    with pytest.raises(ValueError, match=r"no numbers: their shapes are \(0, 4\). Give two rows"):
        l0.unit_groups(returning(lambda y, h: y), example()[:0])


def test_constants_in_an_object_of_unknown_kind_are_no_units():
    def build(y: Tensor, h: Tensor) -> Any:
        positions = torch.arange(3)
        return y, lambda: positions

    assert l0.unit_groups(returning(build), example()).sizes == {"a": 6, "b": 5}


def test_a_graph_of_objects_that_lead_to_each_other_takes_no_long_search():
    nodes = [Attributes(torch.ones(1), torch.ones(1)) for _ in range(200)]
    for node in nodes:
        vars(node)["others"] = nodes

    net = returning(lambda y, h: {"y": y, "nodes": nodes, "h": [Closes(nodes), h]})
    start = time.perf_counter()
    assert l0.unit_groups(net, example()).sizes == {"a": 6}
    assert time.perf_counter() - start < 30


def test_compact_refuses_hidden_units_that_groups_by_hand_would_remove():
    net = returning(lambda y, h: (y, iter([h])))
    fn, params, buffers = l0.make_functional(net)
    groups = {
        "b": l0.group(
            {"c.weight": l0.axis(1)}, owns={"b.weight": l0.axis(0), "b.bias": l0.axis(0)}
        )
    }
    spec = l0.gate_spec(params, groups=groups)
    gates = {"b": torch.tensor([3, -9, 3, 3, -9]).double()}
    with pytest.raises(TypeError, match=r"output\[1\] is a list_iterator, which holds tensors"):
        l0.compact(fn, params, gates, buffers, spec, example_inputs=example())
