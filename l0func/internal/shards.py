"""Arithmetic on the shards of DTensors: each process computes on its own part, and torch sums.

Layouts are compared entry by entry here, so that no tensor moves unseen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from l0func.internal.sharding import (
    Owned,
    ShardLayout,
    as_index,
    is_dtensor,
    layout_of,
    owned_at,
    owned_by,
    shard_dim,
)
from l0func.internal.untyped import loose


def home() -> Any:
    """torch.distributed.tensor; a DTensor has shown up, so it is imported."""
    return sys.modules["torch.distributed.tensor"]


def wrapped(local: Tensor, layout: ShardLayout, shape: Sequence[int], /) -> Tensor:
    """A DTensor of this shape from the part in this process, differentiable; nothing is sent."""
    sizes = torch.Size(shape)
    stride = tuple([prod(sizes[dim + 1 :]) for dim in range(len(sizes))])
    own = {"run_check": False, "shape": sizes, "stride": stride}
    return home().DTensor.from_local(local, layout.mesh, layout.placements, **own)


def part(tensor: Tensor, summed: Sequence[int] = (), /) -> Tensor:
    """The part of a DTensor in this process, differentiable.

    Args:
        tensor: The DTensor.
        summed: Dimensions of the mesh in which the processes hold equal parts and use them
            differently: the backward pass adds their gradients.
    """
    function: Any = _Part
    return function.apply(tensor, tuple(summed))


class _Part(Function):
    @staticmethod
    def forward(ctx: Any, tensor: Any, summed: tuple[int, ...]) -> Tensor:
        ctx.layout, ctx.shape, ctx.summed = layout_of(tensor), tensor.shape, summed
        local = tensor.to_local()
        return local.view_as(local)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        layout, own = ctx.layout, _local_grad(grads[0])
        if not ctx.summed:
            return wrapped(own, layout, ctx.shape), None
        partial = home().Partial()
        placements = [partial if m in ctx.summed else p for m, p in enumerate(layout.placements)]
        terms = wrapped(own.contiguous(), ShardLayout(layout.mesh, tuple(placements)), ctx.shape)
        return loose(terms).redistribute(placements=layout.placements), None


def _local_grad(grad: Any) -> Tensor:
    """A gradient as a plain tensor: beside a DTensor loss it arrives as a DTensor."""
    return grad.full_tensor() if is_dtensor(grad) else grad


def on_shards(function: Callable[[Tensor], Any], tensor: Tensor, /) -> Any:
    """An elementwise function of a DTensor, computed on every process's own part.

    Args:
        function: From a tensor to one of its shape, or to a tuple of such tensors.
        tensor: The DTensor.
    """
    layout = layout_of(tensor)
    result: Any = function(part(tensor))
    if isinstance(result, Tensor):
        return wrapped(result, layout, tensor.shape)
    return tuple([wrapped(own, layout, tensor.shape) for own in result])


def all_sum(own: Tensor, mesh: Any, m: int, /, op: str = "sum") -> Tensor:
    """The sum of one tensor from each process along a mesh's dimension, plain; a collective.

    Args:
        own: This process's term, of the same shape everywhere.
        mesh: The mesh.
        m: A dimension of it. torch warns of a sum over several at once.
        op: ``"sum"``, or ``"max"`` for the largest.
    """
    function: Any = _AllSum
    return function.apply(own, mesh, m, op)


class _AllSum(Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, mesh: Any, m: int, op: str) -> Tensor:
        placements: list[Any] = [home().Replicate()] * mesh.ndim
        placements[m] = home().Partial(op)
        layout = ShardLayout(mesh, tuple(placements))
        terms: Any = wrapped(own.detach().clone(), layout, own.shape)
        return terms.full_tensor()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        # Every process has the same loss, so the sum's gradient is each term's.
        return _local_grad(grads[0]), None, None, None


def whole_of(tensor: Tensor, /) -> Tensor:
    """A DTensor gathered, differentiable; a plain tensor as it is."""
    return loose(tensor).full_tensor() if is_dtensor(tensor) else tensor


def laid_as(tensor: Tensor, like: Tensor, /) -> Tensor:
    """A tensor in another one's layout: a gradient beside its leaf."""
    if not is_dtensor(tensor):
        return tensor
    if not is_dtensor(like):
        return loose(tensor).full_tensor()
    layout = layout_of(like)
    if loose(tensor).placements == layout.placements:
        return tensor
    return loose(tensor).redistribute(placements=layout.placements)


def product_with(tensor: Tensor, factor: Tensor, name: str, /, *, gathers: bool = False) -> Tensor:
    """A tensor times a factor that broadcasts to it, each process on its own part.

    Args:
        tensor: A tensor, maybe a DTensor.
        factor: The factor, of its rank.
        name: The tensor's name, for an error.
        gathers: Whether a factor in another layout is gathered, and not refused.

    Raises:
        ValueError: The layouts do not match.
    """
    if not (is_dtensor(tensor) or is_dtensor(factor)):
        return tensor * factor
    if not is_dtensor(tensor):
        return tensor * factor_beside(tensor, factor, name)
    layout = layout_of(tensor, name)
    own = part(tensor) * factor_beside(tensor, factor, name, gathers=gathers)
    return wrapped(own, layout, tensor.shape)


def factor_beside(
    tensor: Tensor, factor: Tensor, name: str, /, *, gathers: bool = False
) -> Tensor:
    """The part of a factor that belongs to this process's part of a tensor, plain.

    Args:
        tensor: A tensor, maybe a DTensor.
        factor: A factor that broadcasts to it, of its rank.
        name: The tensor's name, for an error.
        gathers: Whether a factor in another layout is gathered, and not refused.

    Raises:
        ValueError: The layouts do not match.
    """
    if not is_dtensor(tensor):
        return _whole_of_shards(factor, name) if is_dtensor(factor) else factor
    layout = layout_of(tensor, name)
    if not is_dtensor(factor):
        raise ValueError(
            f"{name!r} is a DTensor, {layout}, and its gates or its mask are a plain tensor. Lay "
            "the gates out like the parameters: gates = l0func.place_gates(spec, params, gates)."
        )
    varied = [dim for dim, size in enumerate(factor.shape) if size > 1 or tensor.shape[dim] == 1]
    own = layout_of(factor, name)
    same_mesh = own.mesh == layout.mesh
    fits = same_mesh and holds(own, tuple(factor.shape), layout, tuple(tensor.shape), varied)
    if same_mesh and not fits and gathers:
        factor = loose(factor).redistribute(placements=[home().Replicate()] * layout.mesh.ndim)
        own, fits = layout_of(factor, name), True
    if not fits:
        raise ValueError(
            f"The gates on {name!r} do not lie as the parameter does: they make a mask of shape "
            f"{tuple(factor.shape)}, {own}, and the parameter is {layout}. Lay the gates out as "
            "the slices that they multiply: gates = l0func.place_gates(spec, params, gates)."
        )
    local = part(factor, unequal(own, layout))
    wanted = owned_by(tensor, name)
    for dim, indices in enumerate(owned_by(factor, name)):
        if dim in varied:
            local = taken(local, dim, indices, wanted[dim])
    return local


def _whole_of_shards(factor: Tensor, name: str) -> Tensor:
    layout = layout_of(factor, name)
    if not layout.is_whole:
        raise ValueError(
            f"{name!r} is a plain tensor, and its gates or its mask are a DTensor, {layout}. "
            "Distribute the parameter too, or gather the gates: l0func.gather(gates)."
        )
    return part(factor)


def unequal(own: ShardLayout, other: ShardLayout, /) -> list[int]:
    """The mesh's dimensions in which the other layout cuts its tensor, and the own does not."""
    pairs = enumerate(zip(own.placements, other.placements, strict=True))
    return [m for m, (p, q) in pairs if shard_dim(p) is None and shard_dim(q) is not None]


def all_places(layout: ShardLayout, /) -> Iterator[tuple[int, ...]]:
    """The coordinates of all processes on a layout's mesh."""
    return product(*[range(count) for count in layout.mesh.shape])


@lru_cache(maxsize=1024)
def _holds_part(
    own: ShardLayout,
    shape: tuple[int, ...],
    other: ShardLayout,
    sizes: tuple[int, ...],
    dims: tuple[int, ...],
) -> bool:
    for coordinate in all_places(own):
        for dim in dims:
            held = owned_at(own, coordinate, dim, shape[dim])
            if not _contains_sharded(held, owned_at(other, coordinate, dim, sizes[dim])):
                return False
    return True


def holds(
    own: ShardLayout,
    shape: tuple[int, ...],
    other: ShardLayout,
    sizes: tuple[int, ...],
    dims: Sequence[int],
    /,
) -> bool:
    """Whether every process holds, along some dimensions, all that it holds in another layout.

    Every process gets the same answer: a refusal of one alone would let the others wait.

    Args:
        own: A layout.
        shape: The shape of its tensor.
        other: The other layout, on the same mesh.
        sizes: The shape of the other tensor; along ``dims`` it is equal.
        dims: Dimensions of both.
    """
    if own.is_whole:
        return True
    return _holds_part(own, shape, other, sizes, tuple(dims))


def _contains_sharded(held: Owned, wanted: Owned) -> bool:
    if len(wanted) == 0:
        return True
    if isinstance(held, range) and isinstance(wanted, range):
        return held.start <= wanted.start and wanted.stop <= held.stop
    return bool(torch.isin(as_index(wanted), as_index(held)).all())


def taken(local: Tensor, dim: int, held: Owned, wanted: Owned, /) -> Tensor:
    """The wanted slices of a part that holds some.

    Args:
        local: A part.
        dim: A dimension of it.
        held: The indices of its slices in the whole, ascending.
        wanted: The indices to take, all of them among the held ones.
    """
    if isinstance(held, range) and isinstance(wanted, range):
        if len(held) == len(wanted):
            return local
        start = max(wanted.start - held.start, 0) if len(wanted) else 0
        return local.narrow(dim, start, len(wanted))
    places = torch.searchsorted(as_index(held), as_index(wanted))
    return local.index_select(dim, places.to(local.device))
