"""Contractions over a few examples at a time: their masked weights lie in memory, no others.

Backends differ in how they mask the weights. The products are torch's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from l0func.internal.context import without_autocast
from l0func.kernels.contraction import Contraction, Operands, Output, result_shape

ENTRIES = 1 << 18
"""The most entries of masked weights in a chunk on a CPU; one example has its own at least."""

ENTRIES_ELSEWHERE = 1 << 24


class Chunk(NamedTuple):
    """Some examples' share of a contraction; E is the number of the weight's entries."""

    keys: Tensor
    """``(b, 2)``."""
    products: Tensor
    """For each weight entry the sum over vectors of output times input, ``(b, E)`` or empty."""
    masked: dict[int, Tensor]
    """By the order of the masks' derivative: receives masked weights, ``(b, E)``."""
    sums: dict[int, Tensor]
    """By the order: the products times masks are added here, ``(E,)``."""


Fill = Callable[[Chunk], None]
"""A backend's function: it draws the masks for a chunk and fills its results."""


def contracted_by_chunks(
    contraction: Contraction,
    outputs: Sequence[Output],
    keys: Tensor,
    operands: Operands,
    fill: Fill,
) -> list[Tensor]:
    """Several results from the same masks; see :func:`l0func.kernels.by_torch.contract`.

    Args:
        contraction: The sizes.
        outputs: The results to compute.
        keys: A key for each example, ``(B, 2)``.
        operands: The factors.
        fill: Masks the weights.
    """
    like, entries = operands.log_alpha, prod(contraction.shape)
    step = _examples(entries, keys)
    size = min(step, keys.shape[0]), entries
    masked = {order: like.new_empty(size) for kind, order in outputs if kind != "a"}
    sums = {order: like.new_zeros(entries) for kind, order in outputs if kind == "a"}
    results = [_allocated(output, contraction, keys, operands, sums) for output in outputs]
    with without_autocast(like.device.type):
        for start in range(0, keys.shape[0], step):
            batch = slice(start, start + step)
            own = Operands(like, operands.a, _cut(operands.x, batch), _cut(operands.g, batch))
            products = _products(contraction, own) if sums else like.new_empty(0, 0)
            own_keys = keys[batch]
            own_masked = {order: t[: own_keys.shape[0]] for order, t in masked.items()}
            fill(Chunk(own_keys, products, own_masked, sums))
            for output, result in zip(outputs, results, strict=True):
                if output.kind != "a":
                    _write(output, contraction, own, own_masked[output.order], result[batch])
    return results


def _examples(entries: int, keys: Tensor) -> int:
    """Examples in a chunk."""
    limit = ENTRIES if keys.device.type == "cpu" else ENTRIES_ELSEWHERE
    return max(1, limit // max(entries, 1))


def _cut(t: Tensor | None, batch: slice) -> Tensor | None:
    return None if t is None else t[batch]


def _allocated(
    output: Output,
    contraction: Contraction,
    keys: Tensor,
    operands: Operands,
    sums: dict[int, Tensor],
) -> Tensor:
    """Memory for y or x; a is a sum."""
    shape = result_shape(output.kind, contraction, keys, operands)
    if output.kind == "a":
        return sums[output.order].reshape(shape)
    return operands.log_alpha.new_empty(shape)


def _products(contraction: Contraction, operands: Operands) -> Tensor:
    """For each example and weight entry: the sum over vectors of output times input."""
    x, g, sizes = operands.x, operands.g, contraction.convolution
    assert x is not None
    assert g is not None
    if sizes is not None:
        return sizes.weight_gradients(g, x).flatten(1)
    return torch.bmm(g.transpose(1, 2), x).flatten(1)


def _write(
    output: Output, contraction: Contraction, operands: Operands, masked: Tensor, into: Tensor
) -> None:
    """Write y or x for some examples with their masked weights, ``(b, E)``."""
    x, g, sizes = operands.x, operands.g, contraction.convolution
    weights = masked.reshape(masked.shape[0], *contraction.shape)
    if output.kind == "y":
        assert x is not None
        into.copy_(sizes.outputs(x, weights) if sizes else x @ weights.transpose(1, 2))
    else:
        assert g is not None
        into.copy_(sizes.input_gradients(g, weights) if sizes else g @ weights)
