"""Matrix products with a parameter: it reads its input's units and makes new ones.

In ``x @ W`` each row in ``W`` reads one unit along the last dimension of ``x``, and each column
makes one new unit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from l0func.tracing.call import Call
from l0func.tracing.step import Step, Transfer
from l0func.tracing.transfers.activation_products import product_of_activations
from l0func.tracing.transfers.batched_weights import is_batch, read_by_batch
from l0func.tracing.transfers.refusal import refuse
from l0func.tracing.units import largest, varies
from l0func.tracing.values import Weight, dimension_of


def _mm(step: Step, call: Call) -> None:
    """``a @ b``, also in batches."""
    a, b = call.args[:2]
    step.set(call.outputs[0], _product(step, a, b, None))


def _addmm(step: Step, call: Call) -> None:
    """``bias + a @ b``, also in batches."""
    bias, a, b = call.args[:3]
    labels = _product(step, a, b, bias)
    step.tie_vectors([bias], labels, dim=-1)
    if step.weight(bias) is None:
        # A product of constants has no units, and the sum has those of the bias.
        labels = torch.where(labels >= 0, labels, step.labels(bias))
    step.set(call.outputs[0], labels)


def _mv(step: Step, call: Call) -> None:
    """``matrix @ vector``, for activations."""
    matrix, vector = call.args[-2:]
    if step.weight(vector) is not None or step.weight(matrix) is not None:
        refuse(step, call)
        return
    column = step.labels(vector).unsqueeze(-1)
    labels = product_of_activations(step, step.labels(matrix), column)
    step.set(call.outputs[0], labels.squeeze(-1))


def _linear(step: Step, call: Call) -> None:
    """``x @ weight.T + bias``."""
    x, tensor = call.args[:2]
    bias: Tensor | None = call.argument("bias")
    weight = step.weight(tensor)
    if weight is None or tensor.dim() != 2:
        refuse(step, call)
        return
    labels = _read_by(step, _Matrix(weight, 1, 0, bias), x, step.labels(x))
    if bias is not None:
        step.tie_vectors([bias], labels, dim=-1)
    step.set(call.outputs[0], labels)


def _grouped_mm(step: Step, call: Call) -> None:
    """Rows in groups, each times the matrix of its group, such as an expert."""
    x, tensor = call.args[:2]
    weight = step.weight(tensor)
    if weight is None or x.dim() != 2 or tensor.dim() != 3 or call.argument("bias") is not None:
        refuse(step, call)
        return
    labels = _read_by(step, _Matrix(weight, 1, 2, None), x, step.labels(x))
    # torch wants rows of whole runs of 16 bytes.
    step.trace.pieces.add(_ALIGNED_BYTES // x.element_size())
    step.set(call.outputs[0], labels)


def _product(step: Step, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Labels for ``(*, n, k) @ (*, k, m)``, before they are tied with the bias."""
    left, right = step.weight(a), step.weight(b)
    if left is not None and right is not None and not _is_linear_layer(left, right):
        shape = (*a.shape[:-1], b.shape[-1])
        return _product_of_weights(step, left, right, shape)
    rows, columns = a.dim() - 2, a.dim() - 1
    if right is not None:
        matrix = _Matrix(_one_of_batch(right), rows, columns, bias)
        return _read_by(step, matrix, a, step.labels(a))
    if left is not None:
        # a @ b is the transpose of b.T @ a.T. Its bias would be a column: none is logged.
        matrix = _Matrix(_one_of_batch(left), columns, rows, None)
        return _read_by(step, matrix, b.mT, step.labels(b).mT).mT
    return product_of_activations(step, step.labels(a), step.labels(b))


def _is_linear_layer(table: Weight, weight: Weight) -> bool:
    """Whether a linear layer, whose weight is transposed, reads a table of vectors."""
    found = dimension_of(weight, -1) if len(weight.shape) == 2 else None
    return found is not None and found[0] == 0 and table.path != weight.path


class _Matrix(NamedTuple):
    """A weight as the right side in a product, with its bias.

    The product sums over the dimension ``summed`` and keeps the dimension ``kept``.
    """

    weight: Weight
    summed: int
    kept: int
    bias: Tensor | None


def _read_by(step: Step, matrix: _Matrix, x: Tensor, labels: Tensor) -> Tensor:
    """Labels for ``x`` times a matrix, given the labels for ``x``."""
    weight = matrix.weight
    kept = weight.shape[matrix.kept]
    shape = (*labels.shape[:-1], kept)
    rows = labels.reshape(labels.shape[:-1].numel(), labels.shape[-1])
    products = rows.numel() * kept
    uses, rest = divmod(products, max(weight.size, 1))
    step.trace.count(weight, products / weight.size if rest else uses)
    if is_batch(weight, labels):
        return read_by_batch(step, weight, matrix.summed, matrix.kept, labels)
    if varies(rows, 0) and not varies(rows, 1):
        _keep_shared(step, matrix)
        return labels[..., :1].expand(shape)
    columns = largest(rows, [0])
    step.units.tie(rows, columns)
    step.read(weight, matrix.summed, columns)
    values = x.reshape(rows.shape)
    step.log_reader(weight, matrix.summed, x, values, matrix.bias, border=False)
    made = step.units.fresh(kept)
    step.own(weight, matrix.kept, made)
    return made.expand(shape)


def _keep_shared(step: Step, matrix: _Matrix) -> None:
    """Keep a matrix that all units share, because it works along another dimension than theirs."""
    path = matrix.weight.path
    for dim in (matrix.summed, matrix.kept):
        size = matrix.weight.shape[dim]
        reason = f"{path!r} works along another dimension than its input's units"
        fixed = step.fixed(reason, (size,))
        step.own(matrix.weight, dim, fixed)


def _one_of_batch(weight: Weight) -> Weight:
    """A weight without the dimension along which a batched product repeats it."""
    if len(weight.shape) < 3 or any(varies(c, 0) for c in weight.coordinates):
        return weight
    return Weight(weight.path, tuple(c[:1] for c in weight.coordinates))


def _product_of_weights(step: Step, left: Weight, right: Weight, shape: tuple[int, ...]) -> Tensor:
    step.trace.keep_whole(left.path, f"{left.path!r} is multiplied by {right.path!r}")
    step.trace.keep_whole(right.path, f"{right.path!r} is multiplied by {left.path!r}")
    return step.fixed(f"they come out of {left.path!r} times {right.path!r}", shape)


_ALIGNED_BYTES = 16
_REFUSED = ("addbmm", "dot", "addmv")

TRANSFERS: dict[str, Transfer] = {"mv": _mv, "linear": _linear, "_grouped_mm": _grouped_mm}
TRANSFERS.update(dict.fromkeys(("mm", "bmm"), _mm))
TRANSFERS.update(dict.fromkeys(("addmm", "baddbmm"), _addmm))
TRANSFERS.update(dict.fromkeys(_REFUSED, refuse))
