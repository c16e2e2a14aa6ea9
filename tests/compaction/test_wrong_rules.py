"""The trial catches every wrong removal: groups with a broken rule never pass it."""

from __future__ import annotations

import dataclasses
from itertools import combinations

import pytest
import torch
from block_modules import Blocks
from torch import nn

import l0func as l0
from l0func import axis
from l0func.compaction.trial import Trial, prepare_trial
from l0func.internal.names import stream
from l0func.pure.functional import Functional, make_functional
from l0func.pure.inputs import fitting
from l0func.spec.plan import Group


def trial_of(module: nn.Module, x: torch.Tensor) -> Trial:
    fn, params, buffers = make_functional(module)
    return prepare_trial(Functional(fn.eval(), params, buffers), fitting(fn, (x,), {}))


def network() -> nn.Module:
    torch.manual_seed(0)
    # All weights of the batch norm, and some others, are alike at first.
    layers = [nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU()]
    module = nn.Sequential(*layers, nn.Linear(6, 2))
    nn.init.ones_(module[3].weight)
    nn.init.zeros_(module[5].weight)
    return module


RIGHT = {
    "0": l0.group(
        {"3.weight": axis(1)},
        {path: axis(0) for path in ("0.weight", "0.bias", "1.weight", "1.bias")}
        | {"1.running_mean": axis(0), "1.running_var": axis(0)},
    ),
    "3": l0.group({"5.weight": axis(1)}, {"3.weight": axis(0), "3.bias": axis(0)}),
}


def without(group: Group, path: str) -> Group:
    owns = tuple(pair for pair in group.owns if pair[0] != path)
    return dataclasses.replace(group, owns=owns)


def shifted(group: Group) -> Group:
    """The group, whose gate i multiplies the column of unit i + 1."""
    multiplies = tuple((path, (axis(1, 1), axis(1, 0, 1))) for path, _ in group.multiplies)
    return dataclasses.replace(group, multiplies=multiplies)


def test_right_groups_pass():
    assert trial_of(network(), torch.randn(3, 4)).failure(RIGHT) is None


MISSING = [(name, path) for name, group in RIGHT.items() for path, _ in group.owns]


@pytest.mark.parametrize(("name", "path"), MISSING)
def test_a_group_that_forgets_a_tensor_fails(name, path):
    groups = {**RIGHT, name: without(RIGHT[name], path)}
    assert trial_of(network(), torch.randn(3, 4)).failure(groups) is not None


class Flipped(nn.Module):
    """Two layers; the second reads the first's units in the opposite order."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)).flip(-1))


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("large", [False, True])
def test_a_group_whose_reader_has_another_order_fails(constant, large):
    torch.manual_seed(0)
    module = Flipped()
    if large:
        # More numbers than random ones are drawn: rows must differ all the same.
        module.a, module.b = nn.Linear(65_521 // 7, 8), nn.Linear(8, 65_521)
    if constant:
        for p in module.parameters():
            nn.init.constant_(p, 0.5)
    groups = {"a": l0.group({"b.weight": axis(1)}, {"a.weight": axis(0), "a.bias": axis(0)})}
    x = torch.randn(2, module.a.in_features)
    assert trial_of(module, x).failure(groups) is not None


class Tied(nn.Module):
    """Three layers whose units are added, two by two: all must lose the same units."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 6) for _ in range(3))
        self.out = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second, third = (layer(x) for layer in self.layers)
        return self.out(torch.relu(first) * torch.sigmoid(second) + torch.tanh(third))


@pytest.mark.parametrize(("left", "right"), list(combinations(range(3), 2)))
def test_groups_that_must_lose_the_same_units_fail_apart(left, right):
    torch.manual_seed(0)
    (third,) = {0, 1, 2} - {left, right}
    owned = {}
    for i in (left, right):
        owned[i] = {f"layers.{i}.weight": axis(0), f"layers.{i}.bias": axis(0)}
    of_third = {f"layers.{third}.weight": axis(0), f"layers.{third}.bias": axis(0)}
    groups = {
        "left": l0.group({"out.weight": axis(1)}, owned[left] | of_third),
        "right": l0.group({"out.bias": axis(0)}, owned[right]),
    }
    groups["right"] = dataclasses.replace(groups["right"], multiplies=groups["left"].multiplies)
    assert trial_of(Tied(), torch.randn(3, 4)).failure(groups) is not None


@pytest.mark.parametrize("attribute", ["blocks.0.num_heads", "blocks.0.c_attn.nf"])
@pytest.mark.parametrize("change", [None, 1, 2])
def test_a_wrong_amount_for_an_attribute_fails(attribute, change):
    torch.manual_seed(0)
    tokens = torch.arange(12).reshape(2, 6) % 10
    module = Blocks("packed", 1).eval()
    groups = l0.unit_groups(module, tokens)
    ((name, group),) = groups.items()
    attrs = dict(group.attrs)
    each = attrs.pop(attribute)
    if change is not None:
        attrs[attribute] = each + change
    wrong = {name: dataclasses.replace(group, attrs=attrs)}
    assert trial_of(module, tokens).failure(dict(groups)) is None
    assert trial_of(module, tokens).failure(wrong) is not None


def test_every_tensor_has_random_numbers_of_its_own():
    assert stream("a.weight") != stream("b.weight")
    trial = trial_of(network(), torch.randn(3, 4))
    assert not torch.equal(trial.params["1.weight"], trial.params["0.bias"])
    rows = trial.params["3.weight"]
    assert len(rows.unique(dim=0)) == len(rows)
    assert len(rows.T.unique(dim=0)) == len(rows.T)


class RunningSums(nn.Module):
    """Units of which each reaches all later ones, past its own gate."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).cumsum(-1))


@pytest.mark.parametrize("owned", [["first.weight", "first.bias"], []])
def test_a_group_that_owns_what_its_gates_do_not_close_is_refused_by_compact(owned: list[str]):
    torch.manual_seed(0)
    fn, params, buffers = make_functional(RunningSums())
    owns = {path: axis(0) for path in owned}
    spec = l0.gate_spec(params, groups={"u": l0.group({"last.weight": axis(1)}, owns)})
    gates = {"u": torch.tensor([9.0, -9.0, 9.0, -9.0, 9.0, 9.0])}
    rule = "not that of the network under the same gates: a group owns" if owned else "cannot be"
    with pytest.raises(ValueError, match=rule):
        l0.compact(fn, params, gates, buffers, spec, example_inputs=torch.randn(3, 4))
