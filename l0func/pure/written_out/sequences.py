"""Layers over time in one row of a batch: whether time lies where the layer looks for it."""

from __future__ import annotations

from torch import Tensor

from l0func.internal.context import compiling, is_mapped
from l0func.internal.source_line import calling_line
from l0func.internal.watch import warn_user


def warn_of_one_step(name: str, x: Tensor, steps: int, sequences: int) -> None:
    """Warn where a row of ``per_example`` seems to be a time step, and not an example.

    A row is a batch of one, so a layer over time gets ``(T, 1, features)`` from it. One step of
    several sequences is what it gets where examples lie along dimension 1 and ``in_dims`` is 0.

    Args:
        name: The torch function.
        x: Its input.
        steps: The time steps in the row.
        sequences: The sequences beside each other in the row.
    """
    if steps != 1 or sequences < 2 or compiling() or not is_mapped(x):
        return
    warn_user(
        f"torch function {name!r} got 1 time step of {sequences} sequences in one row of "
        f"per_example{calling_line()}. A row is one example, so this looks like an input "
        "(time, batch, features) whose rows were taken along time. Give in_dims=1 and out_dims=1; "
        "or build the layer with batch_first=True and pass (batch, time, features)."
    )
