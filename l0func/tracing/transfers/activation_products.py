"""Products between two activations, such as attention scores.

The matrix products call it where neither side is a parameter.
"""

from __future__ import annotations

import torch
from torch import Tensor

from l0func.internal.untyped import loose
from l0func.tracing.step import Step
from l0func.tracing.units import no_units


def product_of_activations(step: Step, a: Tensor, b: Tensor) -> Tensor:
    """Labels for a product, given both sides' labels, ``(*, n, k)`` and ``(*, k, m)``.

    The sum over ``k`` makes all its terms one unit, for example an attention head. If only one
    side has several units, all of them need the other side's single unit, which therefore stays.
    """
    shape = (*a.shape[:-1], b.shape[-1])
    terms = a.shape[-1]
    if not terms:
        # A sum of no terms is zero, whatever the units.
        return no_units(shape)
    step.units.tie(a, a[..., :1])
    step.units.tie(b, b[..., :1, :])
    left = step.units.roots(a[..., :1])
    right = step.units.roots(b[..., :1, :])
    _count(step, left.expand(shape), right.expand(shape), terms)
    if _is_single(left) == _is_single(right):
        step.units.tie(left, right)
        return torch.where(left >= 0, left, right).expand(shape)
    many, shared = (right, left) if _is_single(left) else (left, right)
    step.fix(shared, "all units of a product with another activation go through them")
    return many.expand(shape)


def _is_single(labels: Tensor) -> bool:
    """Whether there are labels, and all are equal."""
    flat = labels.reshape(-1)
    return len(flat) > 0 and bool((flat == flat[0]).all())


def _count(step: Step, left: Tensor, right: Tensor, terms: int) -> None:
    """Count multiply-adds by pairs of units: each sum belongs to one left and one right unit."""
    if not left.numel():
        return
    # NONE is -1: shifted by one, labels are not negative, and a pair can be one number.
    first = left.reshape(-1) + 1
    second = right.reshape(-1) + 1
    base = 1 + max(int(first.max()), int(second.max()))
    pairs, counts = loose(first * base + second).unique(return_counts=True)
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        a, b = divmod(pair, base)
        step.trace.count_product((a - 1, b - 1), count * terms)
