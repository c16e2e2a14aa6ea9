"""Contractions by torch operations: the masks are drawn in pieces that fit a cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from l0func.internal.context import compiling
from l0func.kernels import by_torch_streams, choice
from l0func.kernels.by_chunks import Chunk, contracted_by_chunks
from l0func.kernels.by_torch_streams import Uniforms
from l0func.kernels.contraction import Contraction, Operands, Output
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
    return contract_by(by_torch_streams.uniforms, contraction, outputs, keys, operands)


def contract_by(
    uniforms: Uniforms,
    contraction: Contraction,
    outputs: Sequence[Output],
    keys: Tensor,
    operands: Operands,
) -> list[Tensor]:
    """As :func:`contract`, with a backend's function for uniforms."""
    log_alpha = operands.log_alpha.flatten()
    a = None if operands.a is None else operands.a.flatten()
    fill = partial(_fill, contraction, log_alpha, a, uniforms)
    return contracted_by_chunks(contraction, outputs, keys, operands, fill)


def _fill(
    contraction: Contraction,
    log_alpha: Tensor,
    a: Tensor | None,
    uniforms: Uniforms,
    chunk: Chunk,
) -> None:
    """Draw the masks for a chunk and fill its results; see :class:`Chunk`."""
    needed = sorted({*chunk.masked, *chunk.sums})
    for piece in _pieces(contraction, log_alpha, chunk.keys):
        entries = slice(piece.start * contraction.repeat, piece.stop * contraction.repeat)
        u = _uniforms_of(contraction, chunk.keys, piece, uniforms).to(log_alpha.dtype)
        gates = _derivatives(contraction, u, log_alpha[piece], needed)
        drawn = [_repeated(z, contraction.repeat) for z in gates]
        masks = dict(zip(needed, drawn, strict=True))
        for order, masked in chunk.masked.items():
            assert a is not None
            masked[:, entries] = masks[order] * a[entries]
        for order, total in chunk.sums.items():
            total[entries] += (chunk.products[:, entries] * masks[order]).sum(0)


def _pieces(contraction: Contraction, log_alpha: Tensor, keys: Tensor) -> Iterator[slice]:
    """The gates of one piece after another."""
    limit = DRAWS if log_alpha.device.type == "cpu" else DRAWS_ELSEWHERE
    gates = limit // max(keys.shape[0], 1)
    # Every piece but the first starts at a whole call of the generator, or with a whole line.
    unit = max(contraction.gates[1], 1) if contraction.step else 4
    step = max(unit, gates // unit * unit)
    for start in range(0, log_alpha.shape[0], step):
        yield slice(start, min(start + step, log_alpha.shape[0]))


def _uniforms_of(
    contraction: Contraction, keys: Tensor, piece: slice, uniforms: Uniforms
) -> Tensor:
    """The uniforms of some gates, ``(b, gates)``."""
    if contraction.step:
        width = contraction.gates[1]
        lines = torch.arange(piece.start // width, piece.stop // width, device=keys.device)
        starts = contraction.first + lines * contraction.step
        return by_torch_streams.uniform_runs(uniforms, keys, starts, width).flatten(1)
    call, skip = divmod(contraction.first + piece.start, 4)
    starts = torch.stack((keys[:, 0], keys[:, 1] + call), dim=-1)
    count = skip + piece.stop - piece.start
    return uniforms(starts.unsqueeze(-2), (count,))[:, skip:]


def _derivatives(
    contraction: Contraction, u: Tensor, log_alpha: Tensor, orders: Sequence[int]
) -> list[Tensor]:
    distribution, chosen = contraction.distribution, choice.chosen()
    may_fuse = chosen == "compiled" or (contraction.in_graph and chosen == "auto")
    if may_fuse and distribution.formula is None and not compiling():
        return fused_derivatives(distribution, u, log_alpha, orders)
    return distribution.derivatives(u, log_alpha, orders)


def _repeated(z: Tensor, repeat: int) -> Tensor:
    """Each gate at all the entries that share it."""
    return z if repeat == 1 else z.repeat_interleave(repeat, dim=-1)
