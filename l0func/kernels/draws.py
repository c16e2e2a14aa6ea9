"""Keys and draws from keys: eager, under transforms, and under a compiler.

``l0func.random`` calls these functions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from l0func.internal.compiler_import import graph_node
from l0func.internal.context import compiling
from l0func.internal.shapes import joint_shape
from l0func.kernels import by_torch, philox
from l0func.kernels.backends import kernels_for

# Under a compiler, draws with at most this many numbers become one draw, padded to the longest:
# tracing a draw costs more than running it.
_TOGETHER = 4096


def draw_uniforms(keys: Tensor, counts: tuple[int, ...], /) -> list[Tensor]:
    """The first uniforms from G keys, float32, the g-th with shape ``(*batch, counts[g])``.

    Args:
        keys: Keys, shape ``(*batch, G, 2)``.
        counts: For each key its number of uniforms.
    """
    if compiling() or not counts:
        return _traced_uniforms(keys, counts)
    together = _run("uniforms", keys, counts)
    return [together] if len(counts) == 1 else list(torch.split(together, list(counts), dim=-1))


def draw_normals(keys: Tensor, count: int, /) -> Tensor:
    """The first normals from each key: float32, ``(*batch, count)``, from keys ``(*batch, 2)``."""
    return _traced_normals(keys, count) if compiling() else _run("normals", keys, count)


def draw_uniforms_at(key: Tensor, call: Tensor, /) -> Tensor:
    """The uniforms from single calls in one key's stream.

    Args:
        key: A key, shape ``(2,)``.
        call: Call numbers, any shape ``(*call,)``.

    Returns:
        float32 uniforms on (0, 1), shape ``(*call, 4)``.
    """
    return _traced_uniforms_at(key, call) if compiling() else _uniforms_at(key, call)


def split_keys(keys: Tensor, num: int, /) -> Tensor:
    """New keys, shape ``(*batch, num, 2)``, from keys ``(*batch, 2)``."""
    return _traced_split(keys, num) if compiling() else _run("split", keys, num)


def fold_keys(keys: Tensor, data: Tensor, /) -> Tensor:
    """New keys, shape ``(*batch, 2)``, from keys ``(*batch, 2)`` and numbers ``(*batch,)``.

    The two batch shapes broadcast.
    """
    if compiling():
        return _traced_fold(keys, data)
    kernels = kernels_for(keys, data)
    if kernels is not by_torch:
        return kernels.fold(keys, data)
    batch = joint_shape(keys.shape[:-1], data.shape)
    fold: Any = _Fold
    return fold.apply(keys.expand(*batch, 2), data.expand(batch))


def _uniforms_at(key: Tensor, call: Tensor) -> Tensor:
    word = philox.call(key[0], key[1], call)
    return philox.unit(torch.stack(word, dim=-1))


# allow_in_graph makes each of these functions one node in the compiler's graph. Traced through
# Python, the ten rounds would be some two hundred nodes.
@graph_node
def _traced_words(keys: Tensor, calls: int) -> Tensor:
    return philox.words(keys, calls)


def _traced_uniforms(keys: Tensor, counts: tuple[int, ...]) -> list[Tensor]:
    small = [g for g, count in enumerate(counts) if count <= _TOGETHER]
    words: dict[int, Tensor] = {}
    for g, count in enumerate(counts):
        # A larger draw stands alone: the compiler fuses it with the mask made from it.
        if count > _TOGETHER:
            words[g] = _traced_words(keys[..., g, :], -(-count // 4))
    if small:
        small_keys = torch.stack([keys[..., g, :] for g in small], dim=-2)
        longest = max(counts[g] for g in small)
        together = _traced_words(small_keys, -(-longest // 4))
        for i, g in enumerate(small):
            words[g] = together[..., i, :, :]
    return [philox.unit(words[g]).flatten(-2)[..., :count] for g, count in enumerate(counts)]


@graph_node
def _traced_normals(keys: Tensor, count: int) -> Tensor:
    return by_torch.normals(keys, count)


@graph_node
def _traced_uniforms_at(key: Tensor, call: Tensor) -> Tensor:
    return _uniforms_at(key, call)


@graph_node
def _traced_split(keys: Tensor, num: int) -> Tensor:
    return by_torch.split(keys, num)


@graph_node
def _traced_fold(keys: Tensor, data: Tensor) -> Tensor:
    return by_torch.fold(keys, data)


def _run(name: str, keys: Tensor, size: Any) -> Tensor:
    kernels = kernels_for(keys)
    if kernels is not by_torch:
        return getattr(kernels, name)(keys, size)
    draw: Any = _Draw
    return draw.apply(name, keys, size)


# Their vmap rules take a mapped batch of keys off its transform: one call draws for all of them.


class _Draw(Function):
    @staticmethod
    def forward(*args: Any) -> Tensor:
        name, keys, size = args
        return getattr(kernels_for(keys), name)(keys, size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        name, keys, size = args
        return _run(name, keys.movedim(in_dims[1], 0), size), 0


class _Fold(Function):
    @staticmethod
    def forward(*args: Any) -> Tensor:
        keys, data = args
        return kernels_for(keys, data).fold(keys, data)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        keys, data = args
        keys_dim, data_dim = in_dims
        keys = keys.unsqueeze(0) if keys_dim is None else keys.movedim(keys_dim, 0)
        data = data.unsqueeze(0) if data_dim is None else data.movedim(data_dim, 0)
        return fold_keys(keys, data), 0
