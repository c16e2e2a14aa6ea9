"""Planning and its first uses take time in proportion to the number of parameters."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor

import l0func as l0
from l0func.spec.plan import Group

FEW, MANY = 250, 1_000
KEY = l0.random.key(0)
Params = dict[str, Tensor]


def steps_of(function: Callable[[], Any]) -> int:
    """Python calls and lines, each pass through a comprehension included: the same every time."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event in ("call", "line")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


def assert_linear(prepared: Callable[[Params], Callable[[], Any]]) -> None:
    """Four times as many parameters take about four times as many steps."""
    few, many = (steps_of(prepared(params_of(number))) for number in (FEW, MANY))
    assert many <= 4.4 * few


def params_of(number: int) -> Params:
    return {f"layers.{i}.weight": torch.ones(2, 2) for i in range(number)}


def by_one_pattern(params: Params) -> Callable[[], l0.GateSpec]:
    return partial(l0.gate_spec, params, {"*.weight": l0.axis(0)})


def by_exact_paths(params: Params) -> Callable[[], l0.GateSpec]:
    return partial(l0.gate_spec, params, dict.fromkeys(params, l0.axis(0)))


def pairs_of(params: Params) -> dict[str, Group]:
    paths = list(params)
    return {
        f"pair {one}": l0.group({one: l0.axis(1)}, owns={other: l0.axis(0)})
        for one, other in zip(paths[::2], paths[1::2], strict=True)
    }


def by_pairs(params: Params) -> Callable[[], l0.GateSpec]:
    return partial(l0.gate_spec, params, groups=pairs_of(params))


def by_rules_and_pairs(params: Params) -> Callable[[], l0.GateSpec]:
    rules = {"*": [l0.element(), l0.whole()]}
    return partial(l0.gate_spec, params, rules, groups=pairs_of(params))


def with_buffers(params: Params) -> Callable[[], l0.GateSpec]:
    buffers = {path.replace("weight", "mean"): torch.ones(2) for path in params}
    groups = {
        f"unit {path}": l0.group({path: l0.axis(1)}, owns={buffer: l0.axis(0)})
        for path, buffer in zip(params, buffers, strict=True)
    }
    return partial(l0.gate_spec, params, groups=groups, buffers=buffers)


def by_distribution(params: Params) -> Callable[[], l0.GateSpec]:
    distribution = {path: l0.HardConcrete() for path in params}
    return partial(l0.gate_spec, params, distribution=distribution)


WAYS = [
    by_one_pattern,
    by_exact_paths,
    by_pairs,
    by_rules_and_pairs,
    with_buffers,
    by_distribution,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_planning_is_linear_in_the_number_of_parameters(way):
    assert_linear(way)


def gated(params: Params) -> tuple[l0.GateSpec, dict[str, Tensor]]:
    """Parameters in pairs, every entry under two gates: its own, and one of the pair's."""
    spec = l0.gate_spec(params, {"*": l0.element()}, groups=pairs_of(params))
    return spec, {gate.name: torch.ones(gate.shape) for gate in spec.gates}


def started(params: Params) -> Callable[[], Any]:
    spec, gates = gated(params)
    return partial(l0.init_gates, KEY, spec, dict.fromkeys(gates, 0.2))


def sampled(params: Params) -> Callable[[], Any]:
    spec, gates = gated(params)
    return partial(l0.sample_masks, KEY, gates, spec)


def fixed(params: Params) -> Callable[[], Any]:
    spec, gates = gated(params)
    return partial(l0.deterministic_masks, gates, spec)


def priced(params: Params) -> Callable[[], Any]:
    spec, gates = gated(params)
    return partial(l0.penalty, params, gates, spec, dict.fromkeys(params, 0.1), 0.5)


def pruned(params: Params) -> Callable[[], Any]:
    spec, gates = gated(params)
    return partial(l0.prune, params, gates, spec)


def summarised(params: Params) -> Callable[[], Any]:
    spec, gates = gated(params)
    return partial(l0.summary, params, gates, spec)


def printed(params: Params) -> Callable[[], Any]:
    spec, _ = gated(params)
    return partial(str, spec)


def written_and_read(params: Params) -> Callable[[], Any]:
    spec, _ = gated(params)
    return lambda: l0.GateSpec.from_json(spec.to_json())


USES = [started, sampled, fixed, priced, pruned, summarised, printed, written_and_read]


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
def test_a_use_is_linear_in_the_number_of_parameters(use):
    assert_linear(use)
