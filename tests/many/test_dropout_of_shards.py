"""Dropout on activations that tensor parallelism shares out: a process knows its part alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import l0func as l0

pytest.importorskip("shards_here")

from one_mesh import mesh_of
from processes import processes
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

FOUND: list[Any] = []


def _note(x: torch.Tensor) -> torch.Tensor:
    FOUND[:] = [(x.detach() != 0).tolist()]
    return x


class Block(nn.Module):
    """A hidden layer with dropout, inside the parallel region or after it."""

    def __init__(self, inside: bool) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 16, bias=False), nn.Linear(16, 8, bias=False)
        self.dropout, self.inside = nn.Dropout(0.5), inside
        nn.init.ones_(self.up.weight)
        nn.init.ones_(self.down.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.inside:
            return self.down(_note(self.dropout(self.up(x))))
        return _note(self.dropout(self.down(self.up(x))))


def _units(inside: bool, pure: bool, local: bool = True) -> Any:
    """Whether dropout keeps each unit of this process, for every row."""
    net = Block(inside)
    rules = {"up.weight": l0.axis(0), "*": None}
    mesh = mesh_of((torch.distributed.get_world_size(),))
    plan = {"up": ColwiseParallel(use_local_output=local), "down": RowwiseParallel()}
    if pure:
        parallelize_module(net, mesh, plan)
        fn, params, buffers = l0.make_functional(net)
        spec = l0.gate_spec(params, rules)
        whole = {name: t + 9 for name, t in l0.init_gates(l0.random.key(0), spec).items()}
        gates = l0.place_gates(spec, params, whole)
        l0.gated(fn, spec)(params, gates, buffers, l0.random.key(1), torch.ones(3, 4))
    else:
        wrapped = l0.L0Module(net, 1e-3, rules=rules, seed=0, rank=0, droprate_init=1e-4)
        parallelize_module(wrapped.module, mesh, plan)
        wrapped(torch.ones(3, 4))
    return FOUND[0]


@pytest.mark.parametrize("pure", [False, True])
def test_dropout_on_local_activations_drops_the_same_units_of_every_part(pure):
    # Documented as a limit: a plain tensor does not tell that it is a part.
    first, second = processes(2).run(_units, True, pure)
    assert len(first[0]) == 8
    assert first == second
    assert 0 < sum(map(sum, first)) < 24


@pytest.mark.parametrize("pure", [False, True])
def test_dropout_after_the_region_is_that_of_one_process(pure):
    [one] = processes(1).run(_units, False, pure)
    assert processes(2).run(_units, False, pure) == [one, one]
    assert 0 < sum(map(sum, one)) < 24


def _refused() -> str:
    with pytest.raises(ValueError, match="dropout") as caught:
        _units(True, False, False)
    return str(caught.value)


def test_dropout_of_a_dtensor_is_refused_with_its_layout():
    for message in processes(2).run(_refused):
        assert "got a DTensor, [Shard(dim=1)]" in message
        assert "behind the row-parallel layer" in message
