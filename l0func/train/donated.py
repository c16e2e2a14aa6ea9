"""States that a step with ``donate=True`` has used up: it wrote into their tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from l0func.internal.context import compiling

_VERSIONS: Any = WeakTensorKeyDictionary()
"""For a leaf of a state that was donated: how often it had been written to before."""


def check_not_used_up(leaves: Iterable[Tensor]) -> None:
    """Refuse a state that an earlier step has written into.

    Args:
        leaves: The tensors that the step moves. The first of them is looked at.

    Raises:
        ValueError: The state was donated before, and other numbers are in it now.
    """
    first = next(iter(leaves), None)
    if first is None or compiling():
        return
    if _VERSIONS.setdefault(first, first._version) != first._version:
        raise ValueError(
            "This state was given to a step with donate=True, which wrote the next state into its "
            "tensors. Go on with the state that the step returned; or build the training with "
            "donate=False to use a state twice."
        )
