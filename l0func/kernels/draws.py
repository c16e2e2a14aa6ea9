"""Random words and uniforms from keys: eager, under vmap, and under a compiler.

``l0func.random`` calls these functions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from l0func.internal.compiler_import import graph_node
from l0func.internal.context import compiling
from l0func.kernels import philox
from l0func.kernels.eager import eager_draws

# Under a compiler, draws with at most this many calls become one draw, padded to the longest:
# tracing a draw costs more than running it.
_TOGETHER = 1024


def draw_words(keys: Tensor, calls: int, /) -> Tensor:
    """Words from the first calls in each key's stream: int64, shape ``(*batch, calls, 4)``."""
    if compiling():
        return _traced_words(keys, calls)
    return _draw(keys.unsqueeze(-2), (calls,), False)


def draw_uniforms(keys: Tensor, calls: tuple[int, ...], /) -> list[Tensor]:
    """The first uniforms from ``G`` keys, the g-th with shape ``(*batch, calls[g], 4)``.

    Args:
        keys: Keys, shape ``(*batch, G, 2)``.
        calls: For each key its number of calls.
    """
    if compiling():
        return _traced_uniforms(keys, calls)
    return list(torch.split(_draw(keys, calls, True), list(calls), dim=-2))


def draw_uniforms_at(key: Tensor, call: Tensor, /) -> Tensor:
    """The uniforms from single calls in one key's stream.

    Args:
        key: A key, shape ``(2,)``.
        call: Call numbers, any shape ``(*call,)``.

    Returns:
        float32 uniforms on (0, 1), shape ``(*call, 4)``.
    """
    return _traced_uniforms_at(key, call) if compiling() else _uniforms_at(key, call)


def fold_keys(keys: Tensor, data: Tensor, /) -> Tensor:
    """New keys, shape ``(*batch, 2)``, from keys ``(*batch, 2)`` and numbers ``(*batch,)``.

    The two batch shapes broadcast.
    """
    if compiling():
        return _traced_fold(keys, data)
    offset = keys[..., 1] + data
    seed = keys[..., 0] + torch.zeros_like(offset)
    streams = torch.stack((seed, offset), dim=-1)
    word = draw_words(streams, 1).squeeze(-2)
    low = word[..., 0::2]
    high = word[..., 1::2]
    return philox.as_int64(low, high)


def _uniforms_at(key: Tensor, call: Tensor) -> Tensor:
    word = philox.call(key[0], key[1], call)
    return philox.unit(torch.stack(word, dim=-1))


def _traced_uniforms(keys: Tensor, calls: tuple[int, ...]) -> list[Tensor]:
    small = [g for g, count in enumerate(calls) if count <= _TOGETHER]
    words: dict[int, Tensor] = {}
    for g, count in enumerate(calls):
        # A larger draw stands alone: the compiler fuses it with the mask made from it.
        if count > _TOGETHER:
            words[g] = _traced_words(keys[..., g, :], count)
    if small:
        small_keys = torch.stack([keys[..., g, :] for g in small], dim=-2)
        together = _traced_words(small_keys, max(calls[g] for g in small))
        for i, g in enumerate(small):
            words[g] = together[..., i, : calls[g], :]
    return [philox.unit(words[g]) for g in range(len(calls))]


# allow_in_graph makes each of these functions one node in the compiler's graph. Traced through
# Python, the ten rounds would be some two hundred nodes.
@graph_node
def _traced_words(keys: Tensor, calls: int) -> Tensor:
    return philox.words(keys, calls)


@graph_node
def _traced_uniforms_at(key: Tensor, call: Tensor) -> Tensor:
    return _uniforms_at(key, call)


@graph_node
def _traced_fold(keys: Tensor, data: Tensor) -> Tensor:
    folded = philox.folded(keys[..., 0], keys[..., 1], data)
    return torch.stack(folded, dim=-1)


def _draw(keys: Tensor, calls: tuple[int, ...], as_unit: bool) -> Tensor:
    draw: Any = _Draw
    return draw.apply(keys, calls, as_unit)


class _Draw(Function):
    """``eager_draws`` for torch.func: its vmap rule draws for a mapped batch in one call."""

    @staticmethod
    def forward(*args: Any) -> Tensor:
        keys, calls, as_unit = args
        return eager_draws(keys, calls, as_unit)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        keys, calls, as_unit = args
        return _draw(keys.movedim(in_dims[0], 0), calls, as_unit), 0
