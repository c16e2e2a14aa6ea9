"""The transfer function for everything that the analysis cannot follow: it keeps all units."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from l0func.tracing.call import Call
from l0func.tracing.step import Step, Transfer


def refuse(step: Step, call: Call, why: str = "") -> None:
    """Keep all units and parameters that go into this call, and all that come out.

    Args:
        step: The step.
        call: The call.
        why: A phrase that names the special case, appended to the operation's name.
    """
    operation = f"the operation {call.name!r}, which cannot be followed{why}"
    reason = f"they go through {operation}"
    for tensor in call.tensors():
        weight = step.weight(tensor)
        if weight is None:
            step.fix(step.labels(tensor), reason)
        else:
            step.trace.keep_whole(weight.path, f"{weight.path!r} goes through {operation}")
    for output in call.outputs:
        step.set(output, step.fixed(reason, output.shape))


def of_values(transfer: Callable[[Step, Call, Tensor], None]) -> Transfer:
    """Make a transfer function from one that takes labels; it refuses a weight in their place."""

    def guarded(step: Step, call: Call) -> None:
        value = step.value_of(call.args[0])
        if isinstance(value, Tensor):
            transfer(step, call, value)
        else:
            refuse(step, call)

    return guarded
