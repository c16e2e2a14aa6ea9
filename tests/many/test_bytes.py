"""The formulas on the page about many processes predict what is held and sent, to the byte."""

from __future__ import annotations

import importlib.util
import itertools
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import l0func as l0

pytest.importorskip("shards_here")

from gate_bytes import held_and_sent
from layouts import laid_out
from one_mesh import mesh_of
from processes import processes
from sent import Sent, written
from torch import distributed
from torch.distributed.tensor import Replicate, Shard

untyped_distributed: Any = distributed
_PATH = Path(__file__).parents[2] / "docs" / "distributed_bytes.py"
_spec = importlib.util.spec_from_file_location("distributed_bytes", _PATH)
assert _spec is not None
assert _spec.loader is not None
formulas: Any = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = formulas
_spec.loader.exec_module(formulas)
EVEN, UNEVEN = (48, 24), (53, 29)
"""Every number of processes divides the first, and none the second."""


def _measured(layout: str, shape: tuple[int, int]) -> list[Any]:
    return held_and_sent(layout, list(formulas.RULES), shape)


def _cases() -> Iterator[Any]:
    """Every layout for each size; two and three processes are uneven, four as on the page."""
    for name, layout in formulas.LAYOUTS.items():
        for size, shape in itertools.product(layout.sizes, (EVEN, UNEVEN)):
            is_usual = layout.sizes == (4,) or (size == 4) == (shape == EVEN)
            yield pytest.param(name, size, shape, marks=[] if is_usual else pytest.mark.slow)


@pytest.mark.parametrize(("name", "size", "shape"), list(_cases()))
def test_the_formula_predicts_what_gates_hold_and_send_to_the_byte(name, size, shape):
    layout = formulas.LAYOUTS[name]
    expected = []
    for rule in formulas.RULES:
        cost = layout.cost(formulas.Gates(rule, *shape), size)
        sends = sorted((send.kind, send.size) for send in cost.sends)
        expected.append((cost.held, len(sends) if layout.messages else 0, sends))
    assert processes(size).run(_measured, name, shape)[0] == expected


def test_the_tables_on_the_page_are_those_of_the_formulas():
    assert formulas.PAGE.read_text() == formulas.page()


def _ring() -> dict[str, float] | None:
    """For each kind of collective, the bytes that this process writes for 1.2 million numbers."""
    if written() is None:
        return None
    n = distributed.get_world_size()
    whole, own = torch.ones(1_200_000), torch.ones(1_200_000 // n)
    calls = {
        "all-reduce": lambda: untyped_distributed.all_reduce(whole),
        "all-gather": lambda: untyped_distributed.all_gather_into_tensor(whole, own),
        "reduce-scatter": lambda: untyped_distributed.reduce_scatter_tensor(own, whole),
    }
    found: dict[str, float] = {}
    for kind, call in calls.items():
        before = written() or 0
        with warnings.catch_warnings():
            # torch 2.13 has another name for two of them.
            warnings.simplefilter("ignore", FutureWarning)
            call()
        # What the other processes still have to pass on.
        untyped_distributed.barrier()
        found[kind] = (written() or 0) - before
    return found


@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_process_writes_the_bytes_of_a_ring(size):
    found = processes(size).run(_ring)[0]
    if found is None:
        pytest.skip("this system does not count the bytes that a process writes")
    for kind, measured in found.items():
        # gloo scatters the result of an all-reduce.
        used = "all-reduce" if kind == "reduce-scatter" else kind
        expected = formulas.Send(used, 1_200_000, size).by_each
        assert expected <= measured < 1.01 * expected, kind


NET = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))


def _messages(shape: tuple[int, ...], placements: list[Any]) -> dict[str, list[int]]:
    """For every call the numbers of float64 in its all-reduces."""
    mesh = mesh_of(shape)
    fn, whole, _ = l0.make_functional(NET)
    spec = l0.gate_spec(whole, {"*weight": l0.element(), "0.bias": l0.axis(0), "*": None})
    counts = l0.count_macs(fn, whole, {}, torch.ones(2, 6))
    # Vectors have no second dimension.
    of_vectors = [Replicate() if p == Shard(1) else p for p in placements]
    params = {
        path: laid_out(t, mesh, placements if t.dim() > 1 else of_vectors)
        for path, t in whole.items()
    }
    gates = l0.place_gates(spec, params, l0.init_gates(l0.random.key(0), spec, noise=1.0))
    control = l0.lagrangian(spec, {"0.*": 0.4, "2.*": 0.6}, warmup=2)
    state = control.init(gates)
    key = l0.random.key(1)
    masks = l0.sample_masks(key, gates, spec)
    calls: dict[str, Any] = {
        "masks": lambda: l0.apply_masks(params, l0.sample_masks(key, gates, spec)),
        "compensate": lambda: l0.compensate(params, gates, spec),
        "expected_l0": lambda: l0.expected_l0(gates, spec),
        "expected_l2": lambda: l0.expected_l2(params, gates, spec),
        "squared_mean": lambda: l0.squared_mean(params, gates, spec),
        "penalty": lambda: l0.penalty(params, gates, spec),
        "penalty, decay": lambda: l0.penalty(params, gates, spec, weight_decay=0.1),
        "expected_macs": lambda: l0.expected_macs(gates, spec, counts),
        "init": lambda: control.init(gates),
        "price": lambda: control.penalty(state, gates),
        "update": lambda: control.update(state, gates),
        "is_low": lambda: control.is_low(state, gates),
        "prune": lambda: l0.prune(params, gates, spec),
        "summary": lambda: l0.summary(params, gates, spec),
        "clip": lambda: l0.clip_norm(1.0)(params, gates),
    }
    assert masks
    found: dict[str, list[int]] = {}
    for name, call in calls.items():
        with Sent() as sent:
            call()
        assert all(message.kind == "all-reduce" for message in sent.messages)
        found[name] = [message.size // 8 for message in sent.messages]
    return found


@pytest.mark.parametrize(
    ("shape", "placements"),
    [((2,), [Shard(0)]), ((3,), [Shard(0)]), ((2, 2), [Shard(0), Shard(1)])],
)
def test_a_cost_is_one_message_in_each_dimension_of_the_mesh_that_cuts_a_tensor(shape, placements):
    size = shape[0] * (shape[1] if len(shape) > 1 else 1)
    found = processes(size).run(_messages, shape, placements)[0]
    vectors, gated, parameters = 3, 3, 4
    expected = {
        "masks": [],
        "compensate": [],
        "expected_l0": [gated],
        "expected_l2": [gated],
        "squared_mean": [parameters],
        "penalty": [gated],
        "penalty, decay": [2 * gated],
        "expected_macs": [2],
        "init": [gated],
        "price": [gated],
        "update": [gated],
        "is_low": [gated],
        "prune": [vectors, parameters, vectors],
        "summary": [vectors, parameters, 2 * gated + parameters, vectors],
        "clip": [parameters + vectors],
    }
    assert found == {name: sizes_in(sizes, len(shape)) for name, sizes in expected.items()}


def sizes_in(sizes: list[int], dimensions: int) -> list[int]:
    return [size for size in sizes for _ in range(dimensions)]


@pytest.mark.parametrize("rule", [l0.element(), l0.axis(0), l0.axis(1)])
def test_a_mask_keeps_the_slopes_of_its_gates_for_the_backward_pass_and_no_uniforms(rule):
    weight = {"w": torch.ones(200, 300)}
    spec = l0.gate_spec(weight, {"w": rule})
    gates = {k: t.requires_grad_() for k, t in l0.init_gates(l0.random.key(0), spec).items()}
    own, kept = gates["w"].untyped_storage().data_ptr(), dict[int, int]()

    def keep(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        mask = l0.sample_masks(l0.random.key(1), gates, spec)["w"]
    mine = mask.untyped_storage().data_ptr()
    others = sum(size for place, size in kept.items() if place not in (own, mine))
    slopes = 1 if l0.kernel_in_use() != "torch" else 2
    assert mask.untyped_storage().nbytes() == 4 * spec.gates[0].size
    assert 0 <= others - slopes * 4 * spec.gates[0].size <= 16
