"""Where ``compact`` removes nothing, one line on stderr says why and what closes gates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import l0func as l0
from l0func import axis
from l0func.internal import waiting


@pytest.fixture(autouse=True)
def as_in_a_new_process():
    waiting.line_once.cache_clear()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


UNITS = {
    "groups": {"u": l0.group({"2.weight": axis(1)}, {"0.weight": axis(0), "0.bias": axis(0)})}
}


def compacted(rules: Mapping[str, Any], gates: dict[str, Tensor], **settings: Any) -> Any:
    fn, params, buffers = l0.make_functional(network())
    return l0.compact(fn, params, gates, buffers, l0.gate_spec(params, **rules), **settings)


OPEN, SOME = torch.full((3,), 9.0), torch.tensor([9.0, -9.0, 9.0])
SAID = {
    "an estimator that closes none": (
        UNITS,
        {"u": OPEN},
        {},
        "all 3 gates are open under 'louizos'",
    ),
    "examples": (UNITS, {"u": OPEN}, {"example_inputs": torch.ones(2, 4)}, "all 3 gates are open"),
    "a mean": (UNITS, {"u": SOME}, {"estimator": "mean"}, "a mean is never exactly 0"),
    "a high density": (UNITS, {"u": SOME}, {"density": 0.999}, None),
    "gates by rules": (
        {"rules": {"0.weight": axis(0)}},
        {"0.weight": SOME},
        {},
        "the closed gates (1) are on single weights, rows or columns",
    ),
    "closed gates by rules, open ones by groups": (
        {"rules": {"0.bias": l0.element()}, "groups": {"u": l0.group({"2.weight": axis(1)})}},
        {"0.bias": SOME, "u": OPEN},
        {},
        "gate_spec the groups that l0func.unit_groups finds",
    ),
    "no gates": ({"rules": {"*": None}}, {}, {}, "the spec has no gates"),
    "a closed unit": (UNITS, {"u": SOME}, {}, None),
    "a density that keeps all": (UNITS, {"u": SOME}, {"density": 1.0}, None),
}


@pytest.mark.parametrize("name", SAID)
def test_a_line_says_so_exactly_if_nothing_was_removed(name: str, capsys: Any):
    rules, gates, settings, reason = SAID[name]
    for _ in range(2):
        small = compacted(rules, gates, **settings)
    out, err = capsys.readouterr()
    assert out == ""
    size = sum(p.numel() for p in small.params.values())
    if reason is None:
        assert err == ""
        assert size < 23 or settings == {"density": 1.0}
    else:
        assert err.startswith("l0func.compact: nothing was removed; ")
        assert reason in err
        assert len(err.splitlines()) == 1
        assert size == 23
