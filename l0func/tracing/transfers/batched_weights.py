"""Products with a batch of matrices that one parameter holds, such as one for each head.

``x[:, None] @ w`` with a parameter ``(heads, d, k)`` multiplies by one matrix for each head. Units
may lie along the heads or along the matrices' own dimensions; only the end of a trace shows it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from l0func.internal.untyped import loose
from l0func.tracing.joined_dims import JoinedSlices
from l0func.tracing.step import Step
from l0func.tracing.units import largest, varies
from l0func.tracing.values import Weight, dimension_of


def is_batch(weight: Weight, labels: Tensor) -> bool:
    """Whether a weight is a batch of different matrices, for a batch of as many inputs."""
    if len(weight.shape) != 3 or labels.dim() != 3 or weight.shape[0] != labels.shape[0]:
        return False
    return any(varies(coordinate, 0) for coordinate in weight.coordinates)


def read_by_batch(step: Step, weight: Weight, summed: int, kept: int, labels: Tensor) -> Tensor:
    """Labels for a batch of inputs, each times its own matrix.

    Args:
        step: The step.
        weight: The matrices, with the batch as dimension 0.
        summed: The dimension that the product sums over.
        kept: The dimension that it keeps.
        labels: The labels of the inputs, shape (batch, rows, columns).
    """
    columns = largest(labels, [1])
    step.units.tie(labels, columns[:, None])
    _record(step, weight, summed, kept, columns, reads=True)
    shape = (*labels.shape[:2], weight.shape[kept])
    if varies(labels, 0):
        # The inputs belong to the batch already: the outputs may be summed over it.
        made = step.units.fresh(weight.shape[kept])
        step.own(weight, kept, made)
        return made.expand(shape)
    entries = torch.stack([c.select(summed, 0) for c in weight.coordinates], -1)
    distinct, number = loose(entries.flatten(0, 1)).unique(dim=0, return_inverse=True)
    made = step.units.fresh(len(distinct))[number].reshape(entries.shape[:2])
    _record(step, weight, kept, summed, made, reads=False)
    return made[:, None].expand(shape)


def _record(step: Step, weight: Weight, dim: int, other: int, labels: Tensor, reads: bool) -> None:
    """Record units along the batch and one more dimension, for the end of the trace."""
    found = dimension_of(weight, dim)
    coordinates = [c.select(other, 0) for c in weight.coordinates]
    dims = [i for i, c in enumerate(coordinates) if any(varies(c, d) for d in range(c.dim()))]
    if found is None or any(varies(weight.coordinates[i], other) for i in dims):
        step.trace.keep_reshaped(weight.path, labels, step.number)
        return
    along = [coordinates[i].flatten() for i in dims]
    fallback = dims.index(found[0])
    joined = JoinedSlices(weight.path, dims, along, labels.flatten(), reads, step.number, fallback)
    step.trace.join(joined)
