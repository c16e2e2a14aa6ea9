"""Gather and place_gates in one process, and what they say of other tensors and of old torch."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import nn

import l0func as l0
from l0func.internal.torch_version import check_torch
from l0func.internal.whole import check_whole


def test_plain_tensors_stay_the_objects_that_they_are():
    net = nn.Linear(3, 2)
    _, params, _ = l0.make_functional(net)
    spec = l0.gate_spec(params)
    gates = l0.init_gates(l0.random.key(0), spec)
    tree = {"params": params, "more": [gates, None, 3, spec], "one": torch.ones(2)}
    whole = l0.gather(tree)
    assert whole["params"]["weight"] is params["weight"]
    assert whole["more"][0]["weight"] is gates["weight"]
    assert whole["more"][1:] == [None, 3, spec]
    assert l0.gather(params["bias"]) is params["bias"]
    placed = l0.place_gates(spec, params, gates)
    assert all(placed[name] is gates[name] for name in gates)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (nn.Linear(3, 2), r"type Linear\. Gather its state_dict\(\)"),
        ({"a": {"b": nn.Linear(3, 2)}}, r"type Linear at 'a\.b'\. Gather its state_dict\(\)"),
        ({"a": {torch.ones(2)}}, r"type set at 'a'\. Gather its tensors"),
    ],
)
def test_objects_whose_tensors_it_cannot_see_are_refused(tree, message):
    with pytest.raises(TypeError, match=message):
        l0.gather(tree)


class _OldDTensor(torch.Tensor):
    """The class of a torch that has it under a private name only."""

    placements = ("S(0)",)
    device_mesh = torch.zeros(2)


def test_a_torch_without_public_dtensors_refuses_them_by_name(monkeypatch):
    old = types.ModuleType("torch.distributed._tensor")
    old.DTensor = _OldDTensor
    monkeypatch.setitem(sys.modules, "torch.distributed._tensor", old)
    monkeypatch.setitem(sys.modules, "torch.distributed.tensor", None)
    part = torch.ones(3).as_subclass(_OldDTensor)
    calls = (
        check_torch,
        lambda: l0.gather({"w": part}),
        lambda: check_whole("save", params={"w": part}),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"fully_shard, public since torch 2\.6; this is"):
            call()
