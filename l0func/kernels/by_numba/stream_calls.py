"""Keys and draws from streams: functions of :mod:`l0func.kernels.by_torch`, in machine code."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from l0func.internal.shapes import joint_shape
from l0func.kernels.by_numba import streams
from l0func.kernels.by_numba.compiled import array, compiled, empty, key_array
from l0func.kernels.by_numba.numba_names import numpy as np
from l0func.kernels.pool import LARGE, run_tiles

_TILE = 1 << 18
"""Draws of one stream in a tile: a multiple of four."""


def split(keys: Tensor, num: int) -> Tensor:
    """See :func:`l0func.kernels.by_torch_streams.split`."""
    batch = keys.shape[:-1]
    flat = key_array(keys).reshape(-1, 2)
    return _folded(flat, np.zeros(len(flat), np.uint64), num).reshape(*batch, num, 2)


def fold(keys: Tensor, data: Tensor) -> Tensor:
    """See :func:`l0func.kernels.by_torch_streams.fold`."""
    batch = joint_shape(keys.shape[:-1], data.shape)
    flat = key_array(keys.expand(*batch, 2)).reshape(-1, 2)
    first = array(data.expand(batch)).reshape(-1).view(np.uint64)
    return _folded(flat, first, 1).reshape(*batch, 2)


def _folded(keys: Any, first: Any, num: int) -> Tensor:
    new = empty((len(keys), 2 * num), torch.int64)
    into = new.numpy().view(np.uint64)
    run = compiled(streams.fill_keys, torch.float32, None)
    run(keys, first, into)
    return new


def uniforms(keys: Tensor, counts: Sequence[int]) -> Tensor:
    """See :func:`l0func.kernels.by_torch_streams.uniforms`."""
    run = compiled(streams.fill_uniforms, torch.float32, None)
    return _drawn(run, keys, tuple(counts))


def normals(keys: Tensor, count: int) -> Tensor:
    """See :func:`l0func.kernels.by_torch_streams.normals`."""
    run = compiled(streams.fill_normals, torch.float64, None)
    return _drawn(run, keys.unsqueeze(-2), (count,))


def _drawn(run: Any, keys: Tensor, counts: tuple[int, ...]) -> Tensor:
    ends, total = _ends(counts)
    *batch, several, _ = keys.shape
    out = empty((*batch, total), torch.float32)
    rows = key_array(keys).reshape(-1, several, 2)
    flat = out.numpy().reshape(-1)
    size = flat.size
    if size < LARGE:
        run(rows, ends, flat, 0, size)
        return out

    def tile(i: int) -> None:
        run(rows, ends, flat, i * _TILE, min((i + 1) * _TILE, size))

    run_tiles(tile, -(-size // _TILE), size)
    return out


@lru_cache(maxsize=256)
def _ends(counts: tuple[int, ...]) -> tuple[Any, int]:
    ends = np.cumsum(np.asarray(counts, dtype=np.int64))
    return ends, int(ends[-1]) if counts else 0
