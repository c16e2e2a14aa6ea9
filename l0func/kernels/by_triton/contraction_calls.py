"""Contractions: each mask meets its vector in registers, or masked weights lie in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from l0func.kernels import by_torch_contraction
from l0func.kernels.by_chunks import Chunk, contracted_by_chunks
from l0func.kernels.by_triton import launches
from l0func.kernels.by_triton.launches import Lines, device_of, prepared
from l0func.kernels.contraction import Contraction, Kind, Operands, Output, has_one_vector
from l0func.kernels.formula import Formula


def contract(
    contraction: Contraction, outputs: Sequence[Output], keys: Tensor, operands: Operands
) -> list[Tensor]:
    """See :func:`l0func.kernels.by_torch_contraction.contract`."""
    formula, log_alpha = contraction.distribution.formula, operands.log_alpha
    is_steep = any(output.order > 1 for output in outputs)
    if formula is None or is_steep or log_alpha.dtype != torch.float32:
        return by_torch_contraction.contract(contraction, outputs, keys, operands)
    if has_one_vector(contraction, operands):
        return contract_vectors(contraction, formula, outputs, keys, operands)
    if contraction.step:
        return _vector_by_vector(contraction, formula, outputs, keys, operands)
    p, q = prepared(formula, log_alpha.flatten())
    a = p.new_empty(0) if operands.a is None else operands.a.flatten()
    fill = partial(fill_chunk, contraction, formula, p, q, a)
    return contracted_by_chunks(contraction, outputs, keys, operands, fill)


def _vector_by_vector(
    contraction: Contraction,
    formula: Formula,
    outputs: Sequence[Output],
    keys: Tensor,
    given: Operands,
) -> list[Tensor]:
    """Several vectors for each key, as if every one had a key of its own: the same bits.

    The kernels for masked weights draw in the order of the stream, which a part of a weight is
    not.
    """
    other = given.x if given.g is None else given.g
    assert other is not None
    batch, count = other.shape[:2]
    x, g = [None if t is None else t.flatten(0, 1).unsqueeze(1) for t in (given.x, given.g)]
    own = given._replace(x=x, g=g)
    every = keys.repeat_interleave(count, dim=0)
    found = contract_vectors(contraction, formula, outputs, every, own)
    shaped = zip(outputs, found, strict=True)
    return [t if kind == "a" else t.reshape(batch, count, t.shape[-1]) for (kind, _), t in shaped]


def contract_vectors(
    contraction: Contraction,
    formula: Formula,
    outputs: Sequence[Output],
    keys: Tensor,
    given: Operands,
) -> list[Tensor]:
    """A linear map with one vector for each key.

    Args:
        contraction: The sizes.
        formula: The gates' formula.
        outputs: The results to compute, of orders 0 and 1.
        keys: ``(B, 2)``.
        given: The factors, with one vector for each key.

    Returns:
        For each output a tensor: ``y (B, 1, O)``, ``x (B, 1, I)``, ``a (O, I)``.
    """
    ready = prepared(formula, given.log_alpha)
    place = contraction.shape[1], contraction.first, contraction.step
    lines = Lines(*ready, *place)
    a = None if given.a is None else given.a.contiguous()
    x, g = _vectors(given.x), _vectors(given.g)
    keys = keys.contiguous()
    orders = {order for kind, order in outputs if kind == "a"}
    sums: dict[int, Tensor] = {}
    if orders:
        assert x is not None
        assert g is not None
        with device_of(keys):
            sums = launches.outer_product(formula, lines, keys, x, g, orders)
    results: list[Tensor] = []
    for kind, order in outputs:
        if kind == "a":
            results.append(sums[order])
            continue
        product, vectors = _launch_of(kind, x, g)
        assert a is not None
        with device_of(keys):
            results.append(product(formula, lines, keys, a, vectors, order).unsqueeze(1))
    return results


def _launch_of(
    kind: Kind, x: Tensor | None, g: Tensor | None
) -> tuple[Callable[..., Tensor], Tensor]:
    """The launch that computes y from x, or x from g, and its vectors."""
    vectors = x if kind == "y" else g
    assert vectors is not None
    return launches.forward_product if kind == "y" else launches.backward_product, vectors


def _vectors(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.squeeze(1).contiguous()


def fill_chunk(
    contraction: Contraction, formula: Formula, p: Tensor, q: Tensor, a: Tensor, chunk: Chunk
) -> None:
    """Draw the masks for some examples: masked weights and sums over masks, in memory.

    Args:
        contraction: The sizes.
        formula: The gates' formula.
        p: The gates, prepared, ``(N,)``.
        q: As p.
        a: The weight, ``(E,)``; empty if no weights are to be masked.
        chunk: The examples, and what to fill.
    """
    keys = chunk.keys.contiguous()
    place = formula, p, q, keys, contraction.first
    with device_of(keys):
        if chunk.masked:
            launches.mask_entries(*place, a.contiguous(), chunk.masked)
        if chunk.sums:
            launches.sum_entries(*place, chunk.products.contiguous(), chunk.sums)
