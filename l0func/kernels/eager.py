"""Draws outside a compiler: by numpy where possible, by torch elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from l0func.kernels import numpy_blocks, philox
from l0func.kernels.numpy_blocks import BLOCK


def eager_draws(streams: Tensor, calls: Sequence[int], as_unit: bool) -> Tensor:
    """The first words in ``G`` streams, or uniforms made from them.

    Args:
        streams: int64 streams, shape ``(*batch, G, 2)``.
        calls: For each stream its number of calls; a call makes four words.
        as_unit: Whether to return ``philox.unit(words)``, bit for bit, rather than words.

    Returns:
        int64 words or float32 uniforms, shape ``(*batch, sum(calls), 4)``: one stream after
        another.
    """
    on_cpu = type(streams) is Tensor and streams.device.type == "cpu"
    if on_cpu and numpy_blocks.AVAILABLE:
        return numpy_blocks.draws_by_numpy(streams, calls, as_unit)
    return draws_by_torch(streams, calls, as_unit)


def draws_by_torch(streams: Tensor, calls: Sequence[int], as_unit: bool) -> Tensor:
    """As :func:`eager_draws`, in torch operations: for any device and without numpy."""
    blocks: list[Tensor] = []
    for g, count in enumerate(calls):
        stream = streams[..., g, :]
        # A stream without calls still gives an empty block, of the right dtype.
        for start in range(0, max(count, 1), BLOCK):
            stop = min(start + BLOCK, count)
            blocks.append(_block(stream, start, stop, as_unit))
    return torch.cat(blocks, dim=-2)


def _block(stream: Tensor, start: int, stop: int, as_unit: bool) -> Tensor:
    index = torch.arange(start, stop, dtype=torch.int64, device=stream.device)
    seed, offset = stream[..., :1], stream[..., 1:]
    word = torch.stack(philox.call(seed, offset, index), dim=-1)
    return philox.unit(word) if as_unit else word
