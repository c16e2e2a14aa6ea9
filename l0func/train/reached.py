"""Whether a loss reaches gates, read from its graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from l0func.internal import tree
from l0func.internal.graph import nodes_behind
from l0func.internal.tree import Pytree


def reaches_gates(value: Tensor, params: list[Tensor], gates: list[Tensor]) -> bool | None:
    """Whether a loss reaches a gate.

    Args:
        value: The loss.
        params: The parameters that move, as the loss got them.
        gates: The gates, likewise.

    Returns:
        None if there are no gates, or if the graph ends in none of these tensors: a loss apart
        from all of them has an error of its own.
    """
    if not gates or not value.requires_grad:
        return None
    ends = {id(t) for t in _ends_of(value)}
    if any(id(t) in ends for t in gates):
        return True
    return False if any(id(t) in ends for t in params) else None


def _ends_of(value: Tensor) -> list[Tensor]:
    """The leaves of a tensor's graph."""
    ends = [getattr(node, "variable", None) for node in nodes_behind([value])]
    return [end for end in ends if isinstance(end, Tensor)]


def check_gates_can_learn(
    update: Callable[..., Any], gates: Pytree, moments: Any, step: Tensor
) -> None:
    """Refuse gates that the loss does not reach, if their optimizer moves gates at all.

    Args:
        update: The gates' optimizer.
        gates: The gates.
        moments: Their moments.
        step: The number of the step.

    Raises:
        ValueError: The optimizer would move them.
    """
    slopes = tree.map_tensors(torch.ones_like, gates)
    moved = tree.leaves(update(slopes, moments, gates, step)[0])
    before = tree.leaves(gates)
    if all(torch.equal(moved[name], t) for name, t in before.items()):
        return
    raise ValueError(
        "The loss reaches parameters and no gate, so no mask is in the network and the data never "
        "move the gates. Call what l0func.gated returned, with the gates and the key that the "
        "loss is given. To train without gates, give init gates={}; to hold them as they are, "
        "give them l0func.optimizer(torch.optim.SGD, lr=0.0)."
    )
