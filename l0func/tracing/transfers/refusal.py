"""The transfer function of everything that the analysis cannot follow: it keeps all units."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from l0func.tracing.call import Call
from l0func.tracing.step import Step, Transfer


def refuse(step: Step, call: Call, why: str = "") -> None:
    """Keep every unit and every parameter that goes into or comes out of this call.

    Args:
        step: The step.
        call: The call.
        why: What makes the call special, to be appended to the operation's name.
    """
    operation = f"the operation {call.name!r}, which has no rule{why}"
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
    """Decorate a function of the first argument's labels: a weight in its place is refused."""

    def guarded(step: Step, call: Call) -> None:
        value = step.value_of(call.args[0])
        if isinstance(value, Tensor):
            transfer(step, call, value)
        else:
            refuse(step, call)

    return guarded
