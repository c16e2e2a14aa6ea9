"""Layouts of DTensors over the meshes of a group: every pair, uneven, empty and strided."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from torch import Tensor

pytest.importorskip("shards_here")

from one_mesh import mesh_of
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

MESHES = {2: [(2,), (1, 2)], 3: [(3,)], 4: [(2, 2), (4,)]}


def meshes(size: int) -> list[Any]:
    """The meshes over a group of this size."""
    return [mesh_of(shape) for shape in MESHES[size]]


def layouts(mesh: Any, rank: int) -> Iterator[tuple[Any, ...]]:
    """All placements of a tensor of this rank, with strided shards on two-dimensional meshes."""
    choices = [Replicate(), *map(Shard, range(rank))]
    if mesh.ndim == 1:
        yield from ((choice,) for choice in choices)
        return
    yield from ((one, other) for one in choices for other in choices)
    # As fully_shard has it over a dimension that tensor parallelism has sharded.
    for dim in range(rank):
        yield from ((strided, Shard(dim)) for strided in strided_shards(dim, mesh.shape[1]))


def strided_shards(dim: int, pieces: int) -> list[Any]:
    """A shard in strides, if this torch's ``distribute_tensor`` makes one.

    It has no public name, and that of torch 2.9 lays it out as a shard without strides.
    """
    from torch.distributed.tensor import placement_types

    strided = vars(placement_types)["_StridedShard"]
    return [strided(dim, split_factor=pieces)] if "_shard_tensor" in vars(strided) else []


def laid_out(tensor: Tensor, mesh: Any, placements: Sequence[Any]) -> Any:
    """A tensor as a DTensor, every process from its own copy."""
    return distribute_tensor(tensor, mesh, placements, src_data_rank=None)
