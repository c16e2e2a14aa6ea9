"""Operations that move elements about: views, indexing, concatenation, padding.

Most of them run on the labels just as they run on the tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from l0func.internal import tree
from l0func.tracing.call import Call
from l0func.tracing.step import Step, Transfer
from l0func.tracing.transfers.copies import keep_value
from l0func.tracing.transfers.refusal import of_values, refuse
from l0func.tracing.units import no_units, varies, without_repeats
from l0func.tracing.values import Weight, whole_weight


def moved(step: Step, call: Call) -> None:
    """Apply the operation to the labels, or to a weight's coordinates."""
    source: Tensor = call.args[0]
    value = step.value_of(source)
    # The labels of a sparse tensor are dense: its views, such as its values, do not fit them.
    if value is None or source.layout != torch.strided:
        refuse(step, call)
    elif isinstance(value, Tensor):
        if call.name in _CUTS:
            _note_pieces(step, call, value)
        elif call.name == "roll":
            _note_roll(step, call, value)
        for output, labels in zip(call.outputs, _applied(call, value), strict=True):
            step.set(output, labels)
        if call.name == "expand":
            added = call.outputs[0].dim() - value.dim()
            step.note_repeats(call.outputs[0], value, (1,) * added + tuple(value.shape))
        elif step.values.repeats(source):
            _move_repeats(step, call, source)
    else:
        # A split has several outputs, and each output has a piece of every coordinate.
        coordinates = [_applied(call, c) for c in value.coordinates]
        for output, *pieces in zip(call.outputs, *coordinates, strict=True):
            step.set(output, Weight(value.path, tuple(pieces)))


def _move_repeats(step: Step, call: Call, source: Tensor) -> None:
    """Note the dimensions along which a tensor that repeats inputs still does so."""
    repeated = step.values.repeats(source)
    positions = whole_weight("", tuple(source.shape)).coordinates
    moved_positions = [_applied(call, p) for d, p in enumerate(positions) if d not in repeated]
    for number, output in enumerate(call.outputs):
        own = [pieces[number] for pieces in moved_positions]
        dims = [d for d in range(output.dim()) if not any(varies(p, d) for p in own)]
        step.values.set_repeats(output, dims)


def _note_pieces(step: Step, call: Call, labels: Tensor) -> None:
    """Note the number of equal pieces that units are cut into."""
    dim = int(call.argument("dim", 0))
    if not varies(labels, dim):
        return
    size, output = labels.shape[dim], call.outputs[0]
    length = output.shape[dim] if output.dim() == labels.dim() else 1
    if length and size % length == 0:
        step.trace.pieces.add(size // length)


def _note_roll(step: Step, call: Call, labels: Tensor) -> None:
    """Note units that move along the dimension in which they lie."""
    # Without dimensions a roll runs over all of them.
    dims = call.argument("dims", ()) or range(labels.dim())
    if any(varies(labels, d) for d in dims):
        step.trace.rolled.append(without_repeats(labels))


def _applied(call: Call, labels: Tensor) -> list[Tensor]:
    """The operation's results for labels or coordinates in place of its first argument."""
    if call.name in _VIEWS:
        # The labels may have other strides than the tensor, and a view could then fail.
        return [labels.reshape(call.args[1])]
    # Indices may be on another device than the labels.
    rest = tree.map_tensors(_on_cpu, call.args[1:])
    result: Any = call.func(labels, *rest, **_keywords(call))
    return [result] if isinstance(result, Tensor) else list(result)


def _keywords(call: Call) -> dict[str, Any]:
    """The keyword arguments; a new tensor for labels stands for the one given as ``out``."""
    return {key: no_units((0,)) if key == "out" else v for key, v in call.kwargs.items()}


def _viewed(step: Step, call: Call) -> None:
    """``view``, in another shape or as numbers of another type."""
    (output,) = call.outputs
    if not isinstance(call.args[1], torch.dtype):
        moved(step, call)
    elif output.element_size() == call.args[0].element_size():
        keep_value(step, call)
    else:
        refuse(step, call, " as a type of another size")


def _restrided(step: Step, call: Call) -> None:
    """``as_strided`` on a tensor without gaps; in place it changes the memory format only."""
    source: Tensor = call.args[0]
    value = step.value_of(source)
    (output,) = call.outputs
    if isinstance(value, Tensor) and output.shape == value.shape:
        step.set(output, value)
    elif isinstance(value, Tensor) and source.is_contiguous() and not source.storage_offset():
        step.set(output, value.contiguous().as_strided(output.shape, output.stride()))
    else:
        refuse(step, call)


def _on_cpu(tensor: Tensor) -> Tensor:
    return tensor.cpu()


def _concatenate(step: Step, call: Call) -> None:
    """Concatenate or stack the labels."""
    tensors: list[Tensor] = list(call.args[0])
    if all(step.weight(t) is not None and t.dim() > 1 for t in tensors):
        refuse(step, call)
        return
    labels = [step.labels(t) for t in tensors]
    joined = call.func(labels, *call.args[1:], **_keywords(call))
    step.set(call.outputs[0], joined)
    _join_repeats(step, call, tensors)


def _join_repeats(step: Step, call: Call, tensors: Sequence[Tensor]) -> None:
    """Note the dimensions along which all of several joined tensors repeat inputs."""
    (output,) = call.outputs
    dim = int(call.argument("dim", 0)) % output.dim()
    added = output.dim() - tensors[0].dim()
    common = set(range(output.dim())) - {dim}
    for tensor in tensors:
        common &= {d + added * (d >= dim) for d in step.values.repeats(tensor)}
    step.values.set_repeats(output, common)


@of_values
def _pad(step: Step, call: Call, labels: Tensor) -> None:
    """Constant padding; along a dimension with units the pad is a unit that stays."""
    pads: list[int] = list(call.args[1])
    (output,) = call.outputs
    if not labels.numel():
        step.set(output, no_units(output.shape))
        return
    # Two pads for each dimension, the last dimension first.
    dims = [-1 - i // 2 for i, pad in enumerate(pads) if pad]
    if any(varies(labels, d) for d in dims):
        reason = "they are padded along the dimension in which they lie, to a fixed size"
        pad_label = int(step.units.fixed(reason))
        step.set(output, torch.constant_pad_nd(labels, pads, pad_label))
        return
    for d in dims:
        labels = labels.narrow(d, 0, 1)
    step.set(output, labels.expand(output.shape))


_CUTS = frozenset({"split", "split_with_sizes", "unbind", "slice", "select"})
_VIEWS = frozenset({"view", "_unsafe_view", "_reshape_alias", "_reshape_alias_copy"})
_MOVES = (
    "repeat flip roll index_select gather index _unsafe_view _unsafe_index take_along_dim "
    "_reshape_alias_copy pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle"
)

TRANSFERS: dict[str, Transfer] = {
    "view": _viewed,
    "constant_pad_nd": _pad,
    "as_strided": _restrided,
}
TRANSFERS.update(dict.fromkeys(("cat", "stack"), _concatenate))
TRANSFERS.update(dict.fromkeys(_MOVES.split(), moved))
