"""Kernels that write one building block's results to memory, for checks on a machine."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from l0func.kernels.by_triton.binding import compiled
from l0func.kernels.by_triton.triton_names import constexpr, tl
from l0func.kernels.by_triton.words import uniforms_by_calls, uniforms_by_entries

BLOCK = 128

function: Any = None
"""A function of the vocabulary; the kernel is compiled with it in this place."""


def uniforms(keys: Tensor, first: int, count: int, by_calls: bool) -> Tensor:
    """The kernels' uniforms: ``count`` from each key, from position ``first`` on."""
    found = torch.empty(keys.shape[0], count, device=keys.device)
    blocks = -(-(count + first % 4) // BLOCK)
    run = _uniforms_kernel()[keys.shape[0], blocks]
    run(keys.contiguous(), found, count, first, BLOCK, by_calls)
    return found


def scalar(chosen: Any, x: Tensor) -> Tensor:
    """A function of the kernels' vocabulary, of every number."""
    found = torch.empty_like(x)
    names = {**_write_values.__globals__, "function": chosen}
    run = compiled(_write_values, names)[(-(-x.numel() // BLOCK),)]
    run(x, found, x.numel(), BLOCK)
    return found


@cache
def _uniforms_kernel() -> Any:
    return compiled(_write_uniforms, _write_uniforms.__globals__)


def _write_uniforms(
    keys: Any, found: Any, count: Any, first: Any, BLOCK: constexpr, BY_CALLS: constexpr
) -> None:
    k = tl.program_id(0)
    seed = tl.load(keys + 2 * k)
    offset = tl.load(keys + 2 * k + 1)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK) - first % 4
    if BY_CALLS:
        call = first // 4 + tl.program_id(1) * (BLOCK // 4) + tl.arange(0, BLOCK // 4)
        u = uniforms_by_calls(seed, offset, call.to(tl.int64))
    else:
        u = uniforms_by_entries(seed, offset, (first + i).to(tl.int64))
    tl.store(found + k * count + i, u, mask=(i >= 0) & (i < count))


def _write_values(x: Any, found: Any, count: Any, BLOCK: constexpr) -> None:
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    own = tl.load(x + i, mask=i < count, other=0.5)
    tl.store(found + i, function(own), mask=i < count)
