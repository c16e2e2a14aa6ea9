"""Contractions by torch operations: the masks are drawn in pieces that fit a cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from l0func.internal.context import compiling
from l0func.kernels import choice
from l0func.kernels.by_chunks import Chunk, contracted_by_chunks
from l0func.kernels.contraction import Contraction, Operands, Output
from l0func.kernels.draws import draw_uniforms
from l0func.kernels.fused import fused_derivatives

DRAWS, DRAWS_ELSEWHERE = 1 << 18, 1 << 22
"""The most draws in a piece, on a CPU and elsewhere."""


def contract(
    contraction: Contraction, outputs: Sequence[Output], keys: Tensor, operands: Operands
) -> list[Tensor]:
    """Several results from the same masks, without all the masks in memory.

    Args:
        contraction: The sizes.
        outputs: The results to compute.
        keys: A key for each example, ``(B, 2)``.
        operands: The factors.

    Returns:
        For each output a tensor: ``y (B, R, O)`` or images, ``x`` shaped like x, ``a (O, I)``.
    """
    ready = contraction.distribution.prepared(operands.log_alpha).flatten()
    a = None if operands.a is None else operands.a.flatten()
    fill = partial(_fill, contraction, ready, a)
    return contracted_by_chunks(contraction, outputs, keys, operands, fill)


def _fill(contraction: Contraction, ready: Tensor, a: Tensor | None, chunk: Chunk) -> None:
    """Draw the masks for a chunk and fill its results; see :class:`Chunk`."""
    needed = sorted({*chunk.masked, *chunk.sums})
    for piece in _pieces(ready, chunk.keys):
        entries = slice(piece.start * contraction.repeat, piece.stop * contraction.repeat)
        drawn = _drawn(contraction, ready, chunk.keys, piece, needed)
        masks = dict(zip(needed, drawn, strict=True))
        for order, masked in chunk.masked.items():
            assert a is not None
            masked[:, entries] = masks[order] * a[entries]
        for order, total in chunk.sums.items():
            total[entries] += (chunk.products[:, entries] * masks[order]).sum(0)


def _pieces(ready: Tensor, keys: Tensor) -> Iterator[slice]:
    """The gates of one piece after another."""
    limit = DRAWS if ready.device.type == "cpu" else DRAWS_ELSEWHERE
    # Every piece but the first starts at a whole call of the generator.
    step = max(4, limit // max(keys.shape[0], 1) // 4 * 4)
    for start in range(0, ready.shape[0], step):
        yield slice(start, min(start + step, ready.shape[0]))


def _drawn(
    contraction: Contraction, ready: Tensor, keys: Tensor, piece: slice, orders: list[int]
) -> list[Tensor]:
    """The masks' derivatives for some gates, ``(b, entries)`` for each order."""
    count = piece.stop - piece.start
    call, skip = divmod(contraction.first + piece.start, 4)
    streams = torch.stack((keys[:, 0], keys[:, 1] + call), dim=-1)
    [by_call] = draw_uniforms(streams.unsqueeze(-2), (-(-(skip + count) // 4),))
    u = by_call.flatten(-2)[:, skip : skip + count].to(ready.dtype)
    gates = _derivatives(contraction, u, ready[piece], orders)
    if contraction.repeat == 1:
        return gates
    return [z.repeat_interleave(contraction.repeat, dim=-1) for z in gates]


def _derivatives(
    contraction: Contraction, u: Tensor, ready: Tensor, orders: Sequence[int]
) -> list[Tensor]:
    distribution, chosen = contraction.distribution, choice.chosen()
    if compiling():
        return distribution.derivatives(u, ready, orders)
    may_fuse = chosen == "compiled" or (contraction.in_graph and chosen == "auto")
    if may_fuse and distribution.formula is None:
        return fused_derivatives(distribution.derivatives, u, ready, orders)
    return distribution.evaluated(u, ready, orders)
