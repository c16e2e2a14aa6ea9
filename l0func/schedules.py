"""Numbers that change as training goes on, as functions of the step.

A learning rate takes its schedule as a setting of :func:`l0func.optimizer`. λ is an input of the
step: ``lam(state.step)``. A temperature belongs to the spec and a step is built for it: schedule
it in :func:`pieces`, and build one step for each value from
``spec.with_distribution(HardConcrete(temperature))``; the state goes from one to the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

Schedule: TypeAlias = Callable[[Tensor | int], Tensor]
"""``schedule(step)``: a tensor of the shape of ``step``, so that compiled code sees no new number.
"""


def linear(start: float, end: float, steps: int, begin: int = 0) -> Schedule:
    """From ``start`` to ``end`` in ``steps`` equal steps from step ``begin`` on, and constant
    before and after.

    Args:
        start: The first value.
        end: The last value.
        steps: How many steps lie between them, at least 1.
        begin: Where it begins.

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
    """As :func:`linear`, along half a cosine.

    Args:
        start: The first value.
        end: The last value.
        steps: How many steps lie between them, at least 1.
        begin: Where it begins.

    Returns:
        A function of the step.

    Raises:
        ValueError: ``steps`` is not positive.
    """
    _check_steps(steps)
    return lambda step: (
        end + (start - end) * 0.5 * (1 + torch.cos(math.pi * _progress(step, steps, begin)))
    )


def pieces(values: Mapping[int, float]) -> Schedule:
    """Constant from each step in ``values`` to the next.

    Args:
        values: ``{first step: value}``; the first of them at step 0.

    Returns:
        A function of the step.

    Raises:
        ValueError: There is no value for step 0, or a step is negative.
    """
    if not values or min(values) != 0:
        raise ValueError(
            f"A schedule in pieces says what holds from step 0 on; got steps {sorted(values)}."
        )
    starts = sorted(values)
    last = torch.tensor([values[at] for at in starts])
    bounds = torch.tensor(starts)

    def schedule(step: Tensor | int) -> Tensor:
        at = torch.as_tensor(step).unsqueeze(-1)
        return last.to(at.device)[((at >= bounds.to(at.device)).sum(-1) - 1).clamp(min=0)]

    return schedule


def _progress(step: Tensor | int, steps: int, begin: int) -> Tensor:
    return ((torch.as_tensor(step) - begin) / steps).clamp(0.0, 1.0)


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(
            f"A schedule takes at least one step from its first value to its last; got {steps}."
        )
