"""Operations that copy a tensor, overwrite one, or create one in the size of another."""

from __future__ import annotations

from torch import Tensor

from l0func.tracing.call import Call
from l0func.tracing.step import Step, Transfer
from l0func.tracing.units import no_units
from l0func.tracing.values import AbstractValue, Weight


def overwritten(before: AbstractValue, labels: Tensor) -> Tensor:
    """Labels for a tensor after an operation wrote it in place; its views see them too.

    Args:
        before: The tensor's abstract value before.
        labels: Labels for the new elements, in the tensor's shape.
    """
    if isinstance(before, Weight):
        return labels
    if 0 in before.stride() or before.shape != labels.shape:
        # Expanded labels are never written into, so they can be shared; others are copied.
        return labels if 0 in labels.stride() else labels.clone()
    return before.copy_(labels)


def keep_value(step: Step, call: Call) -> None:
    """A copy, a cast or a detached alias keeps the abstract value."""
    (out,) = call.outputs
    value = step.value_of(call.args[0])
    if value is not None:
        step.set(out, value)
        step.values.set_repeats(out, step.values.repeats(call.args[0]))


def _copy_into(step: Step, call: Call) -> None:
    """``target.copy_(source)``."""
    target, source = call.args[:2]
    labels = step.labels(source).expand(target.shape)
    before = step.value_of(target)
    written = labels.clone() if before is None else overwritten(before, labels)
    step.set(call.outputs[0], written)


def _create(step: Step, call: Call) -> None:
    """A new tensor as large as another belongs to no unit: it adapts to any size."""
    for output in call.outputs:
        step.set(output, no_units(output.shape))


_SAME = "clone _to_copy detach alias lift_fresh contiguous fill zero tril triu"

FACTORIES = frozenset(
    (
        "new_empty new_zeros new_ones new_full empty_like zeros_like ones_like full_like "
        "new_empty_strided"
    ).split()
)
"""Operations that take only their argument's size, and none of its numbers."""

TRANSFERS: dict[str, Transfer] = {"copy": _copy_into}
TRANSFERS.update(dict.fromkeys(_SAME.split(), keep_value))
TRANSFERS.update(dict.fromkeys(FACTORIES, _create))
