"""Operations that write values at indices: the values and their target are of the same units."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from l0func.internal.shapes import joint_shape
from l0func.tracing.call import Call
from l0func.tracing.step import Step, Transfer
from l0func.tracing.transfers.copies import overwritten
from l0func.tracing.transfers.refusal import refuse
from l0func.tracing.units import NONE, varies


def _along_one(step: Step, call: Call) -> None:
    """``index_add``, ``scatter`` and the like: they write along one dimension."""
    target: Tensor = call.args[0]
    if not target.dim():
        refuse(step, call, " into a number without dimensions")
        return
    dim = int(call.args[1]) % target.dim()
    index, source = call.args[2:4]
    is_read = isinstance(source, Tensor) and source.dim() > 0 and index.numel() > 0
    values = _written_labels(step.labels(source), index, target, dim) if is_read else None
    _with_values(step, call, [dim], values)


def _written_labels(values: Tensor, index: Tensor, target: Tensor, dim: int) -> Tensor:
    """The labels that are written, as large as the target outside of ``dim``; NONE elsewhere."""
    if index.dim() == target.dim():
        # A scatter reads as much of its source as it has indices.
        values = values[_corner(index.shape)]
    shape = [*target.shape]
    shape[dim] = values.shape[dim]
    written = values.new_full(shape, NONE)
    written[_corner(values.shape)] = values
    return written


def _corner(shape: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(size) for size in shape)


def _at_indices(step: Step, call: Call) -> None:
    """``target[indices] = values``, for units along dimensions after the indexed ones."""
    target: Tensor = call.args[0]
    dims = _indexed(call.args[1])
    rest = target.dim() - 1 - max(dims)
    labels, values = step.labels(target), step.labels(call.args[2])
    leading = [(labels, target.dim() - rest), (values, max(values.dim() - rest, 0))]
    if any(varies(each, d) for each, count in leading for d in range(count)):
        refuse(step, call, " where units lie along or before an indexed dimension")
        return
    row = values.reshape(-1, *values.shape[max(values.dim() - rest, 0) :])[:1]
    shape = (1,) * (target.dim() - row.dim() + 1) + tuple(row.shape[1:])
    is_empty = not row.numel()
    _with_values(step, call, dims, None if is_empty else row.reshape(shape))


def _indexed(indices: Sequence[Tensor | None]) -> list[int]:
    """The indexed dimensions."""
    dims: list[int] = []
    dim = 0
    for index in indices:
        # A mask stands for as many dimensions as it has.
        width = index.dim() if index is not None and index.dtype == torch.bool else 1
        if index is not None:
            dims += range(dim, dim + width)
        dim += width
    return dims


def _masked_scatter(step: Step, call: Call) -> None:
    """``target.masked_scatter(mask, source)``: the mask is one for all units."""
    target, mask, source = call.args[:3]
    labels, values = step.labels(target), step.labels(source)
    outer = list(range(target.dim() - 1))
    # A mask with more dimensions makes a larger output.
    is_as_target = target.shape == call.outputs[0].shape
    has_rows = target.dim() > 0 and source.shape[-1:] == target.shape[-1:]
    along_others = any(varies(labels, d) for d in outer)
    along_rows = any(varies(values, d) for d in range(values.dim() - 1))
    if not (is_as_target and has_rows) or along_others or along_rows or _varies_along_last(mask):
        refuse(step, call, " with a mask that differs between units")
        return
    row = values[(slice(1),) * (values.dim() - 1)].flatten()
    is_empty = not row.numel()
    shape = (1,) * len(outer) + (-1,)
    _with_values(step, call, outer, None if is_empty else row.reshape(shape))


def _varies_along_last(mask: Tensor) -> bool:
    return mask.dim() > 0 and (mask.is_meta or bool((mask != mask[..., :1]).any()))


def _with_values(step: Step, call: Call, dims: Sequence[int], values: Tensor | None) -> None:
    """Tie the values with their target; refuse units along the dimensions of the indices."""
    target: Tensor = call.args[0]
    before = step.value_of(target)
    labels = step.labels(target)
    along = [labels] if values is None else [labels, values]
    for each in along:
        if each.dim() == labels.dim() and any(varies(each, d) for d in dims):
            refuse(step, call, " along the dimension in which units lie")
            return
    made = labels
    if values is not None:
        for d in dims:
            labels = labels.narrow(d, 0, min(1, labels.shape[d]))
            values = values.narrow(d, 0, 1)
        shape = joint_shape(labels.shape, values.shape)
        labels, values = labels.expand(shape), values.expand(shape)
        step.units.tie(labels, values)
        made = torch.where(labels >= 0, labels, values).expand(target.shape)
    if call.writes_in_place and before is not None:
        made = overwritten(before, made)
    step.set(call.outputs[0], made)


_ALONG_ONE = "index_add index_copy scatter scatter_add scatter_reduce index_fill"

TRANSFERS: dict[str, Transfer] = {"masked_scatter": _masked_scatter}
TRANSFERS.update(dict.fromkeys(_ALONG_ONE.split(), _along_one))
TRANSFERS.update(dict.fromkeys(("index_put", "_index_put_impl", "_unsafe_index_put"), _at_indices))
