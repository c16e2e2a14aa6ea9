"""Every public call that takes DTensors has the values, bits and gradients of the whole twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sampled import among, sampled

import l0func as l0

pytest.importorskip("shards_here")

from processes import processes
from torch.distributed.tensor.debug import CommDebugMode
from twins import COUNTS, TABLE, Twin, twins

KEY = l0.random.key(5)
ESTIMATORS = ("louizos", "median", "mean")
SIZES = (2, 3, 4)


def _masks(params: Any, gates: Any, spec: Any) -> Any:
    """All calls that promise bits."""
    found = [l0.sample_masks(KEY, gates, spec), l0.mean_masks(gates, spec)]
    found += [l0.deterministic_masks(gates, spec, e) for e in ESTIMATORS]
    found += [l0.prune(params, gates, spec, e) for e in ESTIMATORS]
    # Gates that are all but closed are refused, where their values can be read.
    milder = {name: log_alpha.clamp(min=2.0) for name, log_alpha in gates.items()}
    found += [l0.compensate(params, milder, spec), l0.apply_masks(params, found[0])]
    return found


SCALARS: dict[str, Callable[..., Any]] = {
    "expected_l0": lambda p, g, s: l0.expected_l0(g, s),
    "expected_l2": lambda p, g, s: l0.expected_l2(p, g, s),
    "expected_macs": lambda p, g, s: l0.expected_macs(g, s, COUNTS),
    "expected_ms": lambda p, g, s: l0.expected_ms(g, s, TABLE),
    "expected_sparsity": lambda p, g, s: l0.expected_sparsity(g, s),
    "penalty": lambda p, g, s: [_penalty(p, g, s, lam) for lam in _lams(p)],
    "realised_macs": lambda p, g, s: [l0.realised_macs(g, s, COUNTS, e) for e in ESTIMATORS],
    "realised_ms": lambda p, g, s: [l0.realised_ms(g, s, TABLE, e) for e in ESTIMATORS],
    "squared_mean": lambda p, g, s: l0.squared_mean(p, g, s),
}


def _lams(params: Any) -> list[Any]:
    """Every form that the price of an entry has: the last one is laid out as its parameter."""
    by_entry = torch.linspace(0, 1, 35).reshape(7, 5)
    rows = torch.linspace(0, 1, 7).reshape(7, 1)
    own = params["0.weight"].detach().abs()
    parts = [{"0.weight": lam, "*": 0.1} for lam in (by_entry, rows, by_entry[0], own)]
    return [0.3, torch.tensor(0.3), torch.tensor([0.3]), *parts]


def _penalty(params: Any, gates: Any, spec: Any, lam: Any) -> Any:
    return l0.penalty(params, gates, spec, lam, weight_decay=0.3)


def _scalars(params: Any, gates: Any, spec: Any) -> Any:
    return [call(params, gates, spec) for call in SCALARS.values()]


def _texts(params: Any, gates: Any, spec: Any) -> Any:
    tables = [l0.summary(params, gates, spec, e) for e in ESTIMATORS]
    return [str(table) for table in tables]


def _clipped(params: Any, gates: Any, spec: Any) -> Any:
    grads = [{name: t.detach() for name, t in d.items()} for d in (params, gates)]
    return [l0.clip_norm(0.1, order)(*grads) for order in (1.0, 2.0, 3.5, float("inf"))]


def _check_all(size: int) -> int:
    count = 0
    for number, twin in enumerate(twins(size)):
        twin.check(_masks, bits=True)
        twin.check(_scalars)
        twin.check(_texts)
        twin.check(_clipped)
        if number == 4 - size:
            # Another distribution on another layout for each size: the counter is slow.
            _check_nothing_sent(twin)
        count += 1
    return count


def _check_nothing_sent(twin: Twin) -> None:
    with CommDebugMode() as sent:
        masks = l0.sample_masks(KEY, twin.own_gates, twin.spec)
        l0.mean_masks(twin.own_gates, twin.spec)
        l0.compensate(twin.own_params, twin.own_gates, twin.spec)
        l0.apply_masks(twin.own_params, masks)
    assert sent.get_total_counts() == 0, twin.name


@pytest.mark.parametrize("size", sampled(SIZES, among("3")))
def test_every_call_has_the_values_and_gradients_of_the_whole(size):
    assert processes(size).run(_check_all, size) == [3] * size


def test_every_public_function_that_returns_a_number_is_run_here():
    numbers = ("Tensor", "float", "int")
    found = {name for name in l0.__all__ if _returned(name) in numbers}
    assert found == set(SCALARS)


def _returned(name: str) -> Any:
    value = getattr(l0, name)
    return getattr(value, "__annotations__", {}).get("return")
