"""Layouts of DTensors: the entries that this process holds of the whole, without communication.

torch.distributed.tensor is never imported here: a DTensor shows that a program has done so.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import Parameter

from l0func.internal.torch_version import check_torch
from l0func.internal.untyped import loose

Owned: TypeAlias = range | Tensor
"""Indices along one dimension, ascending runs: a range, or an int64 vector of several runs."""

_PUBLIC = "torch.distributed.tensor"
_PRIVATE = "torch.distributed._tensor"


class ShardLayout(NamedTuple):
    """How a DTensor lies on its mesh of processes."""

    mesh: Any
    """A ``DeviceMesh``."""

    placements: tuple[Any, ...]
    """For each dimension of the mesh, ``Shard(dim)`` or ``Replicate()``."""

    def __str__(self) -> str:
        mesh = "x".join(str(size) for size in self.mesh.shape)
        placed = ", ".join(repr(placement) for placement in self.placements)
        return f"[{placed}] on a mesh of {mesh}"

    @property
    def is_whole(self) -> bool:
        """Whether every process holds the whole tensor."""
        return all(shard_dim(placement) is None for placement in self.placements)


def are_dtensors_possible() -> bool:
    """Whether a program has imported torch's DTensors, so that there may be some."""
    return _PUBLIC in sys.modules or _PRIVATE in sys.modules


def is_dtensor(tensor: object, /) -> bool:
    """Whether a tensor is a DTensor; also if every process holds the whole of it.

    Raises:
        ValueError: It is one, and this torch has no public ``torch.distributed.tensor``.
    """
    kind = type(tensor)
    if kind is Tensor or kind is Parameter:
        return False
    public, private = sys.modules.get(_PUBLIC), sys.modules.get(_PRIVATE)
    if public is not None and hasattr(public, "DTensor"):
        return isinstance(tensor, public.DTensor)
    if private is not None and isinstance(tensor, private.DTensor):
        check_torch()
    return False


def layout_of(tensor: Tensor, /, name: str = "") -> ShardLayout:
    """The layout of a DTensor.

    Args:
        tensor: A DTensor.
        name: Its name, for an error.

    Raises:
        ValueError: It is a partial sum, its shards are in another order than the mesh's
            dimensions, or this process is outside of the mesh.
    """
    loosely = loose(tensor)
    layout = ShardLayout(loosely.device_mesh, tuple(loosely.placements))
    label = f"The DTensor {name!r}" if name else "A DTensor"
    for placement in layout.placements:
        if not (placement.is_replicate() or shard_dim(placement) is not None):
            raise ValueError(
                f"{label} has the placement {placement!r}: its processes hold terms of a sum, "
                "not entries. Add them first: tensor.redistribute(placements=[Replicate()] * "
                f"{layout.mesh.ndim})."
            )
    if layout.mesh.get_coordinate() is None:
        raise ValueError(
            f"{label} is on a mesh of the ranks {layout.mesh.mesh.flatten().tolist()}, and this "
            "process is none of them. Call it in these processes only."
        )
    _check_order(loosely, label)
    return layout


def check_entries(tensors: Mapping[str, Tensor], /) -> None:
    """Refuse DTensors of which no process holds entries, such as partial sums.

    Args:
        tensors: Tensors by name, for an error.

    Raises:
        ValueError: :func:`layout_of` refuses one.
    """
    for name, t in tensors.items():
        if is_dtensor(t):
            layout_of(t, name)


def _check_order(tensor: Any, label: str) -> None:
    order: Any = getattr(tensor._spec, "shard_order", None) or ()
    for entry in order:
        if list(entry.mesh_dims) != sorted(entry.mesh_dims):
            raise ValueError(
                f"{label} is cut by the mesh's dimensions {tuple(entry.mesh_dims)} in this order, "
                "and l0func knows shards in ascending order only. Redistribute it to "
                f"{tuple(tensor.placements)} in the default order."
            )


def shard_dim(placement: Any, /) -> int | None:
    """The tensor dimension that a placement cuts, or None if it cuts none."""
    # FSDP2's strided shard has a dimension too, and is no Shard in every torch.
    return getattr(placement, "dim", None)


def owned_along(layout: ShardLayout, dim: int, size: int, /) -> Owned:
    """The indices along a dimension that this process holds, without communication.

    Args:
        layout: The layout.
        dim: The dimension of the tensor.
        size: Its size in the whole tensor.
    """
    return owned_at(layout, layout.mesh.get_coordinate(), dim, size)


def owned_at(layout: ShardLayout, coordinate: Sequence[int], dim: int, size: int, /) -> Owned:
    """The indices that the process at a coordinate of the mesh holds; see :func:`owned_along`."""
    own: Owned = range(size)
    mesh = zip(layout.placements, coordinate, layout.mesh.shape, strict=True)
    for placement, number, count in mesh:
        if shard_dim(placement) != dim:
            continue
        pieces = getattr(placement, "split_factor", None)
        if pieces is None:
            own = own[_chunk(len(own), count, number)]
        else:
            own = _strided(own, pieces, count, number)
    return own


def _chunk(size: int, count: int, number: int) -> slice:
    """One of so many chunks, as torch.chunk cuts them: the last ones may be short or empty."""
    full = -(-size // count)
    return slice(min(number * full, size), min((number + 1) * full, size))


def _strided(own: Owned, pieces: int, count: int, number: int) -> Tensor:
    """This process's chunk from each of several pieces."""
    index = as_index(own)
    parts: list[Tensor] = []
    for piece in range(pieces):
        whole = index[_chunk(len(index), pieces, piece)]
        parts.append(whole[_chunk(len(whole), count, number)])
    return torch.cat(parts)


def owned_by(tensor: Tensor, /, name: str = "") -> list[Owned]:
    """For each dimension of a DTensor the indices that this process holds.

    Args:
        tensor: A DTensor.
        name: Its name, for an error.

    Raises:
        ValueError: It has no such layout; or torch has cut it in another way.
    """
    layout = layout_of(tensor, name)
    own = [owned_along(layout, dim, size) for dim, size in enumerate(tensor.shape)]
    local, wanted = tuple(local_part(tensor).shape), tuple(len(indices) for indices in own)
    if local != wanted:
        label = f"The DTensor {name!r}" if name else "A DTensor"
        raise ValueError(
            f"{label} of shape {tuple(tensor.shape)} is placed as {layout}, and this process "
            f"holds a part of shape {local}; a part of it has the shape {wanted}. Sizes that the "
            "mesh does not divide cannot be cut twice in strides: pad them."
        )
    return own


def as_index(own: Owned, /) -> Tensor:
    """Owned indices as an int64 vector."""
    return own if isinstance(own, Tensor) else torch.arange(own.start, own.stop, device="cpu")


def local_part(tensor: Tensor, /) -> Tensor:
    """The part of a DTensor in this process, without a derivative."""
    with torch.no_grad():
        return loose(tensor).to_local()
