"""Contractions: each mask meets its vector in registers, or masked weights lie in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from l0func.kernels.by_triton import launches
from l0func.kernels.by_triton.launches import Lines, device_of, prepared
from l0func.kernels.formula import Formula


def contract_vectors(
    contraction: Any,
    formula: Formula,
    outputs: Sequence[tuple[str, int]],
    keys: Tensor,
    given: Any,
) -> list[Tensor]:
    """A linear map with one vector for each key.

    Args:
        contraction: Its ``shape (O, I)`` and the position ``first``.
        formula: The gates' formula.
        outputs: Kinds and orders of the results.
        keys: ``(B, 2)``.
        given: The factors ``log_alpha (O, gates of a row)``, ``a (O, I)``, ``x (B, 1, I)`` and
            ``g (B, 1, O)``.

    Returns:
        For each output a tensor: ``y (B, 1, O)``, ``x (B, 1, I)``, ``a (O, I)``.
    """
    ready = prepared(formula, given.log_alpha)
    lines = Lines(*ready, contraction.shape[1], contraction.first)
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


def _launch_of(kind: str, x: Tensor | None, g: Tensor | None) -> tuple[Any, Tensor]:
    """The launch that computes y from x, or x from g, and its vectors."""
    vectors = x if kind == "y" else g
    assert vectors is not None
    return launches.forward_product if kind == "y" else launches.backward_product, vectors


def _vectors(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.squeeze(1).contiguous()


def fill_chunk(
    contraction: Any, formula: Formula, p: Tensor, q: Tensor, a: Tensor, chunk: Any
) -> None:
    """Draw the masks for some examples: masked weights and sums over masks, in memory.

    Args:
        contraction: Its position ``first``.
        formula: The gates' formula.
        p: The gates, prepared, ``(N,)``.
        q: As p.
        a: The weight, ``(E,)``; empty if no weights are to be masked.
        chunk: The ``keys (b, 2)``, ``products (b, E)``, and by the order what to fill: ``masked``
            with ``(b, E)``, and ``sums`` with ``(E,)``.
    """
    keys = chunk.keys.contiguous()
    place = formula, p, q, keys, contraction.first
    with device_of(keys):
        if chunk.masked:
            launches.mask_entries(*place, a.contiguous(), chunk.masked)
        if chunk.sums:
            launches.sum_entries(*place, chunk.products.contiguous(), chunk.sums)
