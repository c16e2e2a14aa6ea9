"""A line where ``compact`` makes nothing smaller: it says why, and what closes gates.

No warning: networks without closed gates are usual early in a training, and in tests.
"""

from __future__ import annotations

from collections.abc import Mapping

from l0func.gates.checks import Gates
from l0func.gates.closed import Decision
from l0func.internal.waiting import line_once
from l0func.pure.functional import Functional
from l0func.spec.plan import GateSpec


def say_if_same_size(
    whole: Functional, small: Functional, values: Gates, spec: GateSpec, decision: Decision
) -> None:
    """Write a line to stderr, once in a process, if no tensor lost a slice.

    Args:
        whole: The function before the removal.
        small: The function after it.
        values: ``{gate name: value of each gate}``, 0 where it is closed.
        spec: The gate spec.
        decision: The estimator or density that closes gates.
    """
    if decision.keeps_all or _shapes(whole) != _shapes(small):
        return
    closed = {name: int((z == 0).sum()) for name, z in values.items()}
    groups = {name for name, _ in spec.attrs}
    reason = _reason(closed, groups, spec, decision)
    line_once(f"l0func.compact: nothing was removed; {reason}")


def _shapes(function: Functional) -> dict[str, tuple[int, ...]]:
    tensors = {**function.params, **function.buffers}
    return {path: tuple(tensor.shape) for path, tensor in tensors.items()}


def _reason(
    closed: Mapping[str, int], groups: set[str], spec: GateSpec, decision: Decision
) -> str:
    count = sum(gate.size for gate in spec.gates)
    if not count:
        return "the spec has no gates. Give gate_spec the groups that l0func.unit_groups finds."
    if sum(closed.values()) and not any(closed[name] for name in groups):
        return (
            f"the closed gates ({sum(closed.values())}) are on single weights, rows or columns, "
            "whose zeros stay where they are. Only the gates of groups remove units: give "
            "gate_spec the groups that l0func.unit_groups finds."
        )
    if sum(closed.values()):
        return "no slice lies behind closed gates only."
    if decision.name == "mean":
        return (
            f"all {count} gates are open, because a mean is never exactly 0. Choose an estimator "
            "that closes gates, such as 'louizos' or 'count', or a density."
        )
    return (
        f"all {count} gates are open {decision.words()}. Train longer, with a larger lam or "
        "towards a target (l0func.lagrangian); or close the least likely ones now, with "
        "density=0.5 in place of an estimator. l0func.summary shows how many are expected to be "
        "open."
    )
