"""Schedules: numbers that change during training, as functions of the step.

A learning rate takes its schedule as a setting in :func:`l0func.optimizer`. λ is an input to the
step: ``lam(state.step)``. A temperature is fixed in the spec, and so in each compiled step. Give
it a schedule in :func:`pieces`, build one step for each value with
``spec.with_distribution(HardConcrete(temperature))``, and pass the state from one to the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

Schedule: TypeAlias = Callable[[Tensor | int], Tensor]
"""``schedule(step)``: a tensor shaped as ``step``; compiled code sees no new Python number."""


def linear(start: float, end: float, steps: int, begin: int = 0) -> Schedule:
    """A straight line from ``start`` to ``end``, constant before and after.

    Args:
        start: The first value.
        end: The last value.
        steps: Number of steps from the first value to the last, at least 1.
        begin: The step that the line begins at.

    Returns:
        A function of the step.

    Raises:
        ValueError: ``steps`` is not positive.

    Example:
        >>> linear(0.0, 1.0, 4)(1)
        tensor(0.2500)
    """
    _check_steps(steps)
    return lambda step: start + (end - start) * _progress(step, steps, begin)


def cosine(start: float, end: float, steps: int, begin: int = 0) -> Schedule:
    """Half a cosine from ``start`` to ``end``, constant before and after.

    Args:
        start: The first value.
        end: The last value.
        steps: Number of steps from the first value to the last, at least 1.
        begin: The step that the cosine begins at.

    Returns:
        A function of the step.

    Raises:
        ValueError: ``steps`` is not positive.
    """
    _check_steps(steps)

    def schedule(step: Tensor | int) -> Tensor:
        angle = math.pi * _progress(step, steps, begin)
        return end + (start - end) * 0.5 * (1 + torch.cos(angle))

    return schedule


def pieces(values: Mapping[int, float]) -> Schedule:
    """A staircase: constant from each step in ``values`` to the next.

    Args:
        values: ``{first step: value}``, beginning at step 0.

    Returns:
        A function of the step.

    Raises:
        ValueError: There is no value for step 0, or a step is negative.
    """
    if not values or min(values) != 0:
        raise ValueError(
            f"A schedule in pieces has values from step 0 on; got first steps {sorted(values)}."
        )
    starts = sorted(values)
    levels = torch.tensor([values[start] for start in starts])
    bounds = torch.tensor(starts)

    def schedule(step: Tensor | int) -> Tensor:
        at = torch.as_tensor(step).unsqueeze(-1)
        begun = (at >= bounds.to(at.device)).sum(-1)
        piece = (begun - 1).clamp(min=0)
        return levels.to(at.device)[piece]

    return schedule


def _progress(step: Tensor | int, steps: int, begin: int) -> Tensor:
    return ((torch.as_tensor(step) - begin) / steps).clamp(0.0, 1.0)


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(
            f"A schedule takes at least one step from its first value to its last; got {steps}."
        )
