"""Operations that combine elements at the same place: activations, arithmetic, gated units.

Elements at the same place are tied: they belong to one unit and are removed together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from l0func.tracing.call import Call
from l0func.tracing.checks import SpreadsInsideUnits
from l0func.tracing.step import Step, Transfer
from l0func.tracing.transfers.copies import overwritten
from l0func.tracing.transfers.refusal import of_values, refuse
from l0func.tracing.units import has_units, no_units, varies
from l0func.tracing.values import Weight


def pointwise(step: Step, call: Call) -> None:
    """Tie the operands element by element; a weight with numbers only stays a weight."""
    operands = list(call.tensors())
    found = [step.weight(t) for t in operands]
    weights = [weight for weight in found if weight is not None]
    if weights and all(_is_weight_or_number(step, t) for t in operands):
        _combine_weights(step, call, weights)
        return
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
    every = [_lifted(step.labels(t), len(shape)) for t in fitting]
    labelled = [labels for labels in every if has_units(labels)]
    along = [d for d in range(len(shape)) if _any_varies(labelled, d)]
    merged: Tensor | None = None
    spread: list[Tensor] = []
    for labels in labelled:
        if any(labels.shape[d] != shape[d] for d in along):
            spread.append(labels)
        else:
            full = labels.expand(shape)
            merged = full if merged is None else _tied(step, merged, full)
    nothing = no_units((1,) * len(shape))
    for labels in spread:
        _check_spread(step, call, labels, nothing if merged is None else merged)
    if merged is not None:
        return merged
    rest = labelled[0] if labelled else nothing
    return rest.expand(shape)


def _any_varies(every: Sequence[Tensor], dim: int) -> bool:
    return any(varies(labels, dim) for labels in every)


def _tied(step: Step, a: Tensor, b: Tensor) -> Tensor:
    step.units.tie(a, b)
    return torch.where(a >= 0, a, b)


def _check_spread(step: Step, call: Call, labels: Tensor, over: Tensor) -> None:
    """Keep a unit that is broadcast over others: all those that stay need it."""
    reason = f"they are spread over other units by {call.name!r}"
    step.trace.check_at_end(SpreadsInsideUnits(labels, over, reason, step.number))


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
    "log_sigmoid_forward mish threshold polar celu selu relu6 rrelu_with_noise where"
)

TRANSFERS: dict[str, Transfer] = {"glu": _glu}
TRANSFERS.update(dict.fromkeys(_UNTAGGED.split(), pointwise))
