"""The two borders of tensor parallelism: a tensor enters a region, and a sum leaves it.

Outside of a region every process computes the same. Inside, each computes its own terms. The two
functions are each other's derivatives, of every order, and work inside of every transform.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function

from l0func.internal.sharding import ShardLayout, shard_dim

CutGroups: TypeAlias = tuple[Any, ...]
"""Process groups, one for each dimension of a mesh over which the processes compute terms."""


def groups_that_cut(layout: ShardLayout, dims: Sequence[int], /) -> CutGroups:
    """The groups of processes that hold different indices along some dimensions of a tensor."""
    cut = [m for m, placed in enumerate(layout.placements) if shard_dim(placed) in dims]
    return tuple([layout.mesh.get_group(m) for m in cut])


def entered(tensor: Tensor, groups: CutGroups, /) -> Tensor:
    """The tensor, which all processes use differently: its gradient is the sum of all theirs.

    Args:
        tensor: A tensor that is the same in all processes.
        groups: The groups whose processes use it differently.
    """
    function: Any = _Entered
    return function.apply(tensor, groups) if groups else tensor


def left(terms: Tensor, groups: CutGroups, /) -> Tensor:
    """The sum of one term from each process, the same in all; a collective.

    Args:
        terms: This process's term.
        groups: The groups whose processes have different terms.
    """
    function: Any = _Left
    return function.apply(terms, groups) if groups else terms


def shared_out(tensor: Tensor, groups: CutGroups, /) -> Tensor:
    """The tensor, which all processes use alike: each one's gradient is its share of it.

    Args:
        tensor: A tensor that is the same in all processes.
        groups: The groups whose processes use it alike, and whose gradients are added elsewhere.
    """
    function: Any = _SharedOut
    return function.apply(tensor, groups) if groups else tensor


class _SharedOut(Function):
    @staticmethod
    def forward(*args: Any) -> Tensor:
        return args[0].view_as(args[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.groups = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] / prod([group.size() for group in ctx.groups]), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return tangents[0].view_as(tangents[0])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, Any]:
        return shared_out(*args), in_dims[0]


class _Entered(Function):
    @staticmethod
    def forward(*args: Any) -> Tensor:
        return args[0].view_as(args[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.groups = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return left(grads[0], ctx.groups), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return tangents[0].view_as(tangents[0])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, Any]:
        return entered(*args), in_dims[0]


class _Left(Function):
    @staticmethod
    def forward(*args: Any) -> Tensor:
        terms, groups = args
        distributed: Any = torch.distributed
        total = terms.detach().clone(memory_format=torch.contiguous_format)
        for group in groups:
            distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.groups = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return entered(grads[0], ctx.groups), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return left(tangents[0], ctx.groups)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, Any]:
        return left(*args), in_dims[0]
