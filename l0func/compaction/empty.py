"""Groups without an open unit: an error, a last unit with weights of 0, or a block that goes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor

from l0func.compaction.examples import check_rows
from l0func.compaction.streams import added_groups
from l0func.pure.functional import Functional
from l0func.pure.inputs import Inputs
from l0func.spec.plan import GateSpec

Empty = Literal["raise", "constant", "remove"]


class Settled(NamedTuple):
    """The open gates after a decision on empty groups.

    Attributes:
        opens: For each gate vector a bool tensor; at least one gate in every group is open.
        weights: The paths to the weights of the blocks that go.
    """

    opens: dict[str, Tensor]
    weights: set[str]


def check_empty(empty: Any, examples: Any) -> None:
    """Refuse an unknown choice, and a removal of blocks without examples.

    Raises:
        ValueError: The choice is unknown, or lacks examples.
    """
    if empty is not None and empty not in get_args(Empty):
        raise ValueError(
            "empty says what a group without open units does: it is 'raise', 'constant', 'remove' "
            f"or None; got {empty!r}."
        )
    if empty == "remove" and examples is None:
        raise ValueError(
            "empty='remove' needs example_inputs: a trace shows which blocks are added to a "
            "stream. Without them, empty='constant' keeps one unit with weights of 0."
        )


def settle_empty(
    function: Functional,
    opens: Mapping[str, Tensor],
    spec: GateSpec,
    empty: Empty | None,
    inputs: Inputs | None,
) -> Settled:
    """Decide on the groups without an open gate.

    Args:
        function: The pruned function, before the removal.
        opens: For each gate vector a bool tensor: True where the gate is open.
        spec: The gate spec.
        empty: The choice; see :func:`l0func.compact`.
        inputs: Example inputs, if there are any.

    Raises:
        ValueError: A group has no open gate, and may not have none.
    """
    closed = [name for name, _ in spec.attrs if not bool(opens[name].any())]
    removed: set[str] = set()
    if closed and empty in (None, "remove") and inputs is not None:
        check_rows(inputs)
        removed = added_groups(function, inputs, spec, closed)
    result = dict(opens)
    for name in closed:
        if empty != "constant" and name not in removed:
            raise _empty_group_error(name, opens[name].numel(), spec, empty, inputs)
        kept = opens[name].clone()
        kept.view(-1)[0] = True
        result[name] = kept
    return Settled(result, _weights_of(removed, spec))


def _weights_of(groups: Collection[str], spec: GateSpec) -> set[str]:
    """The tensors with slices of these groups."""
    found: set[str] = set()
    for plan in spec.parameters:
        if any(binding.gate in groups for binding in plan.bindings):
            found.add(plan.path)
    return found


def _empty_group_error(
    group: str, count: int, spec: GateSpec, empty: Empty | None, inputs: Inputs | None
) -> ValueError:
    owned: list[str] = []
    for p in spec.parameters:
        for binding in p.bindings:
            if binding.gate == group and not binding.multiplies:
                owned.append(p.path)
    lost = ", ".join(map(repr, owned[:3])) or repr(group)
    return ValueError(
        f"All {count} units of {group!r} are closed, so that nothing is left of {lost}. "
        "Train with a smaller lam or a larger learning rate of the gates, choose another "
        "estimator, or pass empty='constant', which keeps one unit with weights of 0."
        f"{_about_removal(empty, inputs)}"
    )


def _about_removal(empty: Empty | None, inputs: Inputs | None) -> str:
    if empty == "raise":
        return ""
    if inputs is None:
        return " With example_inputs, a block under a residual connection is removed whole."
    return " Its outputs are not added to a stream that goes on without them."
