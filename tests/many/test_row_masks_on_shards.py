"""The masks of rows over DTensors: bits of one process on every layout, and nothing sent."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

import l0func as l0

pytest.importorskip("shards_here")

from layouts import laid_out, layouts, meshes, strided_shards
from one_mesh import mesh_of
from processes import processes
from torch.distributed.tensor import Shard
from torch.distributed.tensor.debug import CommDebugMode

ROWS = 3
RULES = {
    "element": l0.element(),
    "both": [l0.element(), l0.axis(1)],
    "part": l0.axis(0, 0, 2),
    "blocks": l0.blocks(1, 2),
}
DISTRIBUTIONS = {
    "hard concrete": l0.HardConcrete(),
    "kuma": l0.HardKuma(),
    "bernoulli": l0.BernoulliGate(),
    "gaussian": l0.GaussianGate(),
}


def _fn(params: Any, buffers: Any, vectors: Any, vector: Any) -> Any:
    """A matrix's columns, all from one product and one from each row's; and the whole matrix."""
    w = params["w"]
    return F.linear(vectors, w).unsqueeze(0), F.linear(vector, w), (w * 1).unsqueeze(0)


def _products(spec: Any, params: Any, gates: Any) -> Any:
    inputs = params["w"].shape[1]
    keys = l0.random.split(l0.random.key(4), ROWS)
    rows = l0.per_example(l0.gated(_fn, spec), in_dims=(None, 0))
    vector = torch.eye(inputs).repeat(ROWS, 1)[:ROWS]
    columns, column, whole = rows(params, gates, {}, keys, torch.eye(inputs), vector)
    return columns, column, whole


def _case(rule: str, distribution: str, shape: tuple[int, int]) -> Any:
    whole = torch.arange(1.0, 1 + shape[0] * shape[1]).reshape(shape) / 7
    spec = l0.gate_spec({"w": whole}, {"w": RULES[rule]}, distribution=DISTRIBUTIONS[distribution])
    return spec, {"w": whole}, l0.init_gates(l0.random.key(0), spec, noise=2.0)


def _check(size: int, kernel: str, shape: tuple[int, int]) -> int:
    """Every layout, with one rule and distribution after another."""
    l0.use_kernel(kernel)
    cases = [_case(*names, shape) for names in zip(RULES, DISTRIBUTIONS, strict=True)]
    expected = [_products(*case) for case in cases]
    assert (expected[0][2] == 0).any()
    number = 0
    for mesh in meshes(size):
        for placements in layouts(mesh, 2):
            for case in (number % len(cases), (number + 1) % len(cases)):
                spec, params, gates = cases[case]
                own = {"w": laid_out(params["w"], mesh, placements)}
                found = _products(spec, own, l0.place_gates(spec, own, gates))
                for mine, wanted in zip(found, expected[case], strict=True):
                    assert torch.equal(mine, wanted), (spec, placements)
            number += 1
    l0.use_kernel("auto")
    return number


@pytest.mark.parametrize("kernel", ["auto", "eager"])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_masks_have_the_bits_of_one_process_on_every_layout(size, kernel):
    on_two = 9 + 2 * len(strided_shards(0, 2))
    counts = {2: 3 + on_two, 3: 3, 4: on_two + 3}
    found = processes(size).run(_check, size, kernel, (7, 6) if size == 3 else (8, 6))
    assert found == [counts[size]] * size


def _unused(params: Any, buffers: Any, x: Any) -> Any:
    return x


def _linear(params: Any, buffers: Any, x: Any) -> Any:
    return F.linear(x, params["w"])


def _sent(placement: int) -> tuple[int, int]:
    spec, params, gates = _case("both", "hard concrete", (8, 6))
    own = {"w": laid_out(params["w"], mesh_of((2,)), [Shard(placement)])}
    placed = l0.place_gates(spec, own, gates)
    keys = l0.random.split(l0.random.key(1), ROWS)
    counts: list[int] = []
    for fn in (_unused, _linear):
        with CommDebugMode() as sent:
            l0.per_example(l0.gated(fn, spec))(own, placed, {}, keys, torch.ones(ROWS, 6))
        counts.append(sent.get_total_counts())
    return counts[0], counts[1]


@pytest.mark.parametrize("placement", [0, 1])
def test_a_draw_sends_nothing_and_a_layer_sends_once_for_all_rows(placement):
    assert processes(2).run(_sent, placement) == [(0, 1)] * 2
