"""Processes that hold the same piece of a DTensor are told where their copies differ."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from processes import processes
from torch import Tensor, distributed

import l0func as l0

pytest.importorskip("shards_here")

from layouts import laid_out, layouts, meshes
from one_mesh import mesh_of
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.debug import CommDebugMode

W = torch.arange(35.0).reshape(5, 7)


def _refusal(group: Any = None, **things: Any) -> str:
    try:
        l0.check_agreement(group=group, **things)
    except ValueError as error:
        return str(error)
    return ""


def _changed(placed: Any, rank: int) -> Any:
    """The DTensor, with one number of one process's piece changed."""
    local: Tensor = placed.to_local().clone()
    if distributed.get_rank() == rank and local.numel():
        local.view(-1)[-1] += 1
    kept = {"run_check": False, "shape": placed.shape, "stride": placed.stride()}
    return DTensor.from_local(local, placed.device_mesh, placed.placements, **kept)


def _copies(placed: Any) -> int:
    """How many processes hold this process's entries in their own place; none has no copy."""
    own: list[int] = placed.to_local().int().flatten().tolist()
    coordinate = placed.device_mesh.get_coordinate()
    cut = [c for c, p in zip(coordinate, placed.placements, strict=True) if not p.is_replicate()]
    of_all: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(of_all, (own, cut))
    return of_all.count((own, cut)) if own else 1


def _check_layouts(size: int) -> list[tuple[int, str, str]]:
    """For every layout: the holders of the first process's piece; what is said of it changed."""
    found: list[tuple[int, str, str]] = []
    for mesh in meshes(size):
        for placements in layouts(mesh, 2):
            placed = laid_out(W, mesh, placements)
            copies: list[Any] = [None] * size
            distributed.all_gather_object(copies, _copies(placed))
            equal, differs = _refusal(w=placed), _refusal(w=_changed(placed, 0))
            found.append((copies[0], equal, differs))
    return found


@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_piece_is_compared_where_and_only_where_several_processes_hold_it(size):
    outcomes = processes(size).run(_check_layouts, size)
    assert all(own == outcomes[0] for own in outcomes)
    assert {copies > 1 for copies, _, _ in outcomes[0]} == {True, False}
    for copies, equal, differs in outcomes[0]:
        assert equal == ""
        assert bool(differs) == (copies > 1)
        if differs:
            assert re.search(r"w: a piece of shape .* in process 0(;|\.)", differs), differs


def _hybrid() -> list[str]:
    """Parameters of fully_shard over two replicas; another one holds other weights or gates."""
    mesh = mesh_of((2, 2), ("replicas", "shards"))
    found: list[str] = []
    for changed in (None, "weight", "gates"):
        net = torch.nn.Linear(3, 4)
        with torch.no_grad():
            net.weight.copy_(torch.arange(12.0).reshape(4, 3))
            net.bias.zero_()
            if changed == "weight" and distributed.get_rank() == 3:
                net.weight[3, 2] = -1.0
        spec = l0.gate_spec(dict(net.named_parameters()))
        gates = l0.init_gates(
            l0.random.key(distributed.get_rank() // 2 * (changed == "gates")), spec
        )
        fully_shard(net, mesh=mesh)
        placed = l0.place_gates(spec, dict(net.named_parameters()), gates)
        found.append(_refusal(params=dict(net.named_parameters()), gates=placed))
    return found


def test_replicas_of_hybrid_sharding_that_differ_are_named():
    for equal, weight, gates in processes(4).run(_hybrid):
        assert equal == ""
        assert re.search(
            r"params 'weight': a piece .* in process [13]; .* in process [13]", weight
        )
        assert "gates 'weight'" in gates


def _parts_of_a_mesh() -> list[str]:
    """Tensor parallelism in each of two groups that share batches out between them."""
    mesh = mesh_of((2, 2), ("batches", "units"))
    units = mesh["units"]
    placed = laid_out(W, units, [Shard(0)])
    other = _changed(placed, 3)
    group = units.get_group()
    world = [_refusal(w=placed), _refusal(w=other)]
    # In its own group nobody else holds the piece.
    return [*world, _refusal(group, w=other), _refusal(group, w=laid_out(W, units, [Replicate()]))]


def test_replicas_outside_of_a_part_of_a_mesh_are_compared():
    for equal, differs, alone, copies in processes(4).run(_parts_of_a_mesh):
        assert (equal, alone, copies) == ("", "", "")
        assert re.search(r"in process [13]; .* in process [13]", differs), differs


def _others() -> list[Any]:
    """Terms of a sum, tensors of fewer processes, and the messages of many tensors."""
    rank = distributed.get_rank()
    mesh = mesh_of((3,))
    terms = DTensor.from_local(torch.full((2,), float(rank)), mesh, [Partial()], run_check=False)
    from torch.distributed.device_mesh import DeviceMesh

    few = DeviceMesh("cpu", torch.tensor([0, 2]))
    kept = {"run_check": False, "shape": (2,), "stride": (1,)}
    equal = DTensor.from_local(torch.ones(2), few, [Replicate()], **kept)
    other = DTensor.from_local(torch.ones(2) * (rank + 1), few, [Replicate()], **kept)
    many = {str(n): laid_out(W, mesh, [Shard(n % 2)]) for n in range(20)}
    with CommDebugMode() as counted:
        quiet = _refusal(terms=terms, few=equal, many=many, w=laid_out(W, mesh, [Replicate()]))
    return [quiet, counted.get_total_counts(), _refusal(few=other)]


def test_pieces_of_fewer_processes_are_compared_in_one_message():
    for quiet, messages, differs in processes(3).run(_others):
        assert (quiet, messages) == ("", 1)
        assert re.search(
            r"with \[1\.0, 1\.0\] in process 0; .*\[3\.0, 3\.0\] in process 2", differs
        )
