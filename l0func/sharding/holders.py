"""The processes that hold the same piece of a DTensor, without communication."""

from __future__ import annotations

from typing import Any

import torch

from l0func.internal.sharding import ShardLayout
from l0func.internal.untyped import listed, untyped


def root_ranks(mesh: Any, /) -> Any:
    """The ranks of a mesh, nested by its dimensions; of the whole mesh for a part of one."""
    return listed(_whole_mesh(mesh).mesh)


def holders(layout: ShardLayout, /) -> tuple[int, ...]:
    """The ranks of all processes that hold this process's piece of a DTensor.

    They differ along dimensions of the mesh that replicate the tensor. For a part of a mesh, such
    as ``mesh["tp"]``, these are the dimensions outside of the part too.

    Args:
        layout: The DTensor's layout.

    Returns:
        The ranks in ascending order; empty if this process is outside of the mesh.
    """
    mesh = layout.mesh
    cut = [dim for dim, placed in enumerate(layout.placements) if not placed.is_replicate()]
    root = _whole_mesh(mesh)
    if root is not mesh and _are_root_dims(mesh, root):
        cut = [root.mesh_dim_names.index(mesh.mesh_dim_names[dim]) for dim in cut]
        mesh = root
    coordinate = mesh.get_coordinate()
    if coordinate is None:
        return ()
    ranks: torch.Tensor = mesh.mesh
    for dim in cut:
        ranks = ranks.narrow(dim, coordinate[dim], 1)
    return tuple(sorted(listed(ranks.reshape(-1))))


def _whole_mesh(mesh: Any) -> Any:
    # torch has no public name for the mesh behind mesh["tp"]; up to 2.9 a table knows it.
    if hasattr(mesh, "_get_root_mesh"):
        return mesh._get_root_mesh()
    return untyped.distributed.device_mesh._mesh_resources.get_root_mesh(mesh)


def _are_root_dims(mesh: Any, root: Any) -> bool:
    """Whether every dimension is one of the root's own; dimensions made flat are not."""
    return set(mesh.mesh_dim_names or ()) <= set(root.mesh_dim_names or ())
