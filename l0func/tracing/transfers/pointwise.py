"""Operations that combine elements at the same place: activations, arithmetic, gated units.

Elements at the same place are tied: they belong to one unit and are removed together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from l0func.tracing.call import Call
from l0func.tracing.checks import SpreadsInsideUnits
from l0func.tracing.step import Step, Transfer
from l0func.tracing.transfers.copies import overwritten
from l0func.tracing.transfers.refusal import of_values, refuse
from l0func.tracing.units import has_units, no_units, varies, without_repeats
from l0func.tracing.values import Statistic, Weight
from l0func.tracing.written_norms import WrittenNorm


def pointwise(step: Step, call: Call) -> None:
    """Tie the operands element by element; a weight with numbers only stays a weight."""
    operands = list(call.tensors())
    found = [step.weight(t) for t in operands]
    weights = [weight for weight in found if weight is not None]
    if weights and all(_is_weight_or_number(step, t) for t in operands):
        _combine_weights(step, call, weights)
        return
    if call.name.removesuffix("_") in ("mul", "div"):
        step.trace.multipliers.update(weight.path for weight in weights)
    labels = _merged(step, call, operands)
    before = step.value_of(call.args[0]) if call.writes_in_place else None
    if before is not None:
        labels = overwritten(before, labels)
    # Not expanded: a second output, such as log_sigmoid's buffer, may have a size of its own.
    for output in call.outputs:
        step.set(output, labels)


def _is_weight_or_number(step: Step, tensor: Tensor) -> bool:
    if step.weight(tensor) is not None:
        return True
    return tensor.numel() == 1 and not has_units(step.labels(tensor))


def _combine_weights(step: Step, call: Call, weights: Sequence[Weight]) -> None:
    """Combine weights with each other and with numbers, for example ``weight * 2``."""
    output = call.outputs[0]
    first = weights[0]
    if first.shape == output.shape and all(_same_entries(first, other) for other in weights[1:]):
        step.set(output, first)
    elif all(len(step.trace.shapes[weight.path]) == 1 for weight in weights):
        # Vectors are cheap to follow entry by entry, and often scale and shift: w * g + b.
        step.set(output, _merged(step, call, list(call.tensors())))
    else:
        refuse(step, call)


def _same_entries(a: Weight, b: Weight) -> bool:
    if a.path != b.path:
        return False
    pairs = zip(a.coordinates, b.coordinates, strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def _merged(step: Step, call: Call, operands: Sequence[Tensor]) -> Tensor:
    """Labels for the output: the operands' labels, tied to each other."""
    shape = call.outputs[0].shape
    fitting = [t for t in operands if t.dim() <= len(shape)]
    every = [_Operand(_lifted(_labels(step, t), len(shape)), _norm_of(step, t)) for t in fitting]
    operands_with_units = [operand for operand in every if has_units(operand.labels)]
    labelled = [operand.labels for operand in operands_with_units]
    along = [d for d in range(len(shape)) if _any_varies(labelled, d)]
    merged: Tensor | None = None
    spread: list[_Operand] = []
    for operand in operands_with_units:
        labels = operand.labels
        if any(labels.shape[d] != shape[d] for d in along):
            spread.append(operand)
        else:
            full = labels.expand(shape)
            merged = full if merged is None else _tied(step, merged, full)
    nothing = no_units((1,) * len(shape))
    for operand in spread:
        _check_spread(step, call, operand, nothing if merged is None else merged)
    if not labelled:
        return nothing.expand(shape)
    merged = labelled[0].expand(shape) if merged is None else merged
    sizes = [max(labels.shape[d] for labels in labelled) for d in range(len(shape))]
    step.note_repeats(call.outputs[0], merged, sizes)
    return merged


def _any_varies(every: Sequence[Tensor], dim: int) -> bool:
    return any(varies(labels, dim) for labels in every)


def _tied(step: Step, a: Tensor, b: Tensor) -> Tensor:
    step.units.tie(a, b)
    return torch.where(a >= 0, a, b)


class _Operand(NamedTuple):
    """The labels of an operand, and the norm that it is the statistic of."""

    labels: Tensor
    norm: WrittenNorm | None


def _labels(step: Step, tensor: Tensor) -> Tensor:
    """An operand's labels; a norm's statistic is not expanded, so that it is spread over units."""
    labels = step.labels(tensor)
    for dim in step.values.repeats(tensor):
        labels = labels.narrow(dim, 0, 1)
    return labels if _norm_of(step, tensor) is None else without_repeats(labels)


def _norm_of(step: Step, tensor: Tensor) -> WrittenNorm | None:
    state = step.values.norm_state(tensor)
    return state.norm if isinstance(state, Statistic) else None


def _check_spread(step: Step, call: Call, operand: _Operand, over: Tensor) -> None:
    """Keep a unit that is broadcast over others: all those that stay need it."""
    reason = f"they are spread over other units by {call.name!r}"
    check = SpreadsInsideUnits(operand.labels, over, reason, step.number, operand.norm)
    step.trace.check_at_end(check)


def _lifted(labels: Tensor, rank: int) -> Tensor:
    """Labels with leading dimensions, size 1, as broadcasting adds them."""
    ones = (1,) * (rank - labels.dim())
    return labels.reshape((*ones, *labels.shape))


@of_values
def _glu(step: Step, call: Call, labels: Tensor) -> None:
    """Tie the two halves in a gated linear unit."""
    dim = call.args[1] if len(call.args) > 1 else -1
    first, second = labels.chunk(2, dim)
    step.units.tie(first, second)
    step.set(call.outputs[0], first)


# Operations that torch does not tag as pointwise in every release.
_UNTAGGED = (
    "silu hardtanh hardswish masked_fill leaky_relu elu prelu _prelu_kernel softplus hardsigmoid "
    "log_sigmoid_forward mish threshold polar complex celu selu relu6 rrelu_with_noise "
    "floor_divide rsub where"
)

TRANSFERS: dict[str, Transfer] = {"glu": _glu}
TRANSFERS.update(dict.fromkeys(_UNTAGGED.split(), pointwise))
