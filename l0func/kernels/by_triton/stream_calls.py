"""Keys, uniforms and normals from streams; see :mod:`l0func.kernels.by_torch_streams`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from l0func.internal.shapes import joint_shape
from l0func.kernels.by_triton import streams
from l0func.kernels.by_triton.binding import compiled
from l0func.kernels.by_triton.launches import device_of

UNIFORM_CALLS, NORMAL_CALLS, FOLDED_KEYS = 256, 128, 128
"""Work of a program."""


def split(keys: Tensor, num: int) -> Tensor:
    """See :func:`l0func.kernels.by_torch.split`."""
    numbers = torch.arange(num, dtype=torch.int64, device=keys.device)
    return fold(keys.unsqueeze(-2), numbers)


def fold(keys: Tensor, data: Tensor) -> Tensor:
    """See :func:`l0func.kernels.by_torch.fold`."""
    batch = joint_shape(keys.shape[:-1], data.shape)
    each = keys.expand(*batch, 2).contiguous()
    numbers, into = data.expand(batch).contiguous(), torch.empty_like(each)
    count = numbers.numel()
    if count:
        with device_of(keys):
            run = _stream_kernel(streams.fold_numbers)[(-(-count // FOLDED_KEYS),)]
            run(each, numbers, into, count, FOLDED_KEYS)
    return into


def uniforms(keys: Tensor, counts: Sequence[int]) -> Tensor:
    """See :func:`l0func.kernels.by_torch.uniforms`."""
    return _drawn(streams.fill_uniforms, UNIFORM_CALLS, keys, counts)


def normals(keys: Tensor, count: int) -> Tensor:
    """See :func:`l0func.kernels.by_torch.normals`."""
    return _drawn(streams.fill_normals, NORMAL_CALLS, keys.unsqueeze(-2), (count,))


def _drawn(
    template: Callable[..., None], calls: int, keys: Tensor, counts: Sequence[int]
) -> Tensor:
    """The draws of G streams in each row, one stream after another."""
    batch, line = keys.shape[:-2], sum(counts)
    of_rows = keys.reshape(-1, len(counts), 2).contiguous()
    out = torch.empty((*batch, line), dtype=torch.float32, device=keys.device)
    rows, run, start = out.view(-1, line) if line else out, _stream_kernel(template), 0
    for g, count in enumerate(counts):
        blocks = -(-count // (4 * calls))
        programs = of_rows.shape[0] * blocks
        if programs:
            sizes = count, 2 * len(counts), line, blocks
            with device_of(keys):
                run[(programs,)](of_rows[:, g], rows[:, start:], *sizes, calls)
        start += count
    return out


@cache
def _stream_kernel(template: Any) -> Any:
    return compiled(template, template.__globals__)
