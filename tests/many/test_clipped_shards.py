"""Gradients that are DTensors are clipped as the whole ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from layouts import laid_out, meshes
from processes import processes
from torch.distributed.tensor import Replicate, Shard

import l0func as l0


def _clipped(norm_type: float) -> list[Any]:
    (mesh,) = meshes(2)[:1]
    weights = {"a": torch.arange(15.0).view(5, 3) - 4, "b": torch.tensor([2.0, -40.0])}
    gates = {"a": torch.tensor([3.0, 1.0, -2.0])}
    clip = l0.clip_norm(1.0, norm_type)
    whole = clip(weights, gates)
    placed = (
        {
            "a": laid_out(weights["a"], mesh, [Shard(0)]),
            "b": laid_out(weights["b"], mesh, [Shard(0)]),
        },
        {"a": laid_out(gates["a"], mesh, [Replicate()])},
    )
    clipped = l0.gather(clip(*placed))
    pairs = []
    for mine, expected in zip(clipped, whole, strict=True):
        pairs += [(mine[name].tolist(), expected[name].tolist()) for name in expected]
    return pairs


@pytest.mark.parametrize("norm_type", [2.0, 1.0, float("inf")])
def test_the_norm_is_that_of_all_shards(norm_type):
    for pairs in processes(2).run(_clipped, norm_type):
        for mine, expected in pairs:
            torch.testing.assert_close(torch.tensor(mine), torch.tensor(expected))
