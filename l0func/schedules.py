"""Schedules: numbers that change during training, as functions of the step.

A learning rate takes its schedule as a setting in :func:`l0func.optimizer`. λ is an input to the
step: ``lam(state.step)``. A temperature is fixed in the spec, and so in each compiled step. Give
it a schedule in :func:`pieces`, build one step for each value with
``spec.with_distribution(HardConcrete(temperature))``, and pass the state from one to the next.

A scheduler in torch.optim writes into its optimizer, and a pure step has none to write into. Its
counterpart is a function of the step, as in ``l0func.optimizer(torch.optim.Adam, lr=schedule)``:

- ``StepLR``, ``MultiStepLR``, ``ConstantLR``: :func:`pieces`
- ``LinearLR``, warm-up: :func:`linear`; ``CosineAnnealingLR``: :func:`cosine`
- ``CosineAnnealingWarmRestarts``: ``repeated(cosine(0.1, 0.0, 50), 50, growth=2)``
- ``ExponentialLR``, ``LambdaLR``: a function of your own, ``lambda step: 0.1 * 0.95**step``
- any other but ``ReduceLROnPlateau``: :func:`from_torch`

``ReduceLROnPlateau`` follows a metric and no step: build a training with the next learning rate
when the metric stalls, and pass the state to its step. Moments go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from l0func.internal.scalars import with_type
from l0func.train.numbers import check_number

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
        TypeError: A setting is no number.
        ValueError: ``steps`` is not positive.

    Example:
        >>> import l0func as l0
        >>> l0.schedules.linear(0.0, 1.0, 4)(1)
        tensor(0.2500)
    """
    _check_line(start, end, steps, begin)
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
        TypeError: A setting is no number.
        ValueError: ``steps`` is not positive.

    Example:
        >>> import l0func as l0
        >>> half = l0.schedules.cosine(1.0, 0.0, 4)
        >>> half(2)
        tensor(0.5000)
    """
    _check_line(start, end, steps, begin)

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
        TypeError: ``values`` is no mapping of numbers.
        ValueError: There is no value for step 0, or a step is negative.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> drops = l0.schedules.pieces({0: 0.1, 3: 0.01})
        >>> drops(torch.arange(5))
        tensor([0.1000, 0.1000, 0.1000, 0.0100, 0.0100])
    """
    given: Any = values
    if not isinstance(given, Mapping):
        raise TypeError(
            "A schedule in pieces is {first step: value}, such as {0: 0.1, 1000: 0.01}; got "
            f"{type(given).__name__}."
        )
    for first, value in values.items():
        check_number("A first step in a schedule", first)
        check_number(f"The value from step {first} on", value)
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


def repeated(schedule: Schedule, steps: int, growth: int = 1) -> Schedule:
    """A schedule that starts again and again: warm restarts.

    Source: Loshchilov & Hutter (2017), arXiv:1608.03983, Sec. 3.

    Args:
        schedule: The schedule for the first ``steps`` steps.
        steps: Number of steps in the first round, at least 1.
        growth: How many times as long as the last each round is, an integer, at least 1; the
            schedule is stretched.

    Returns:
        A function of the step.

    Raises:
        TypeError: ``schedule`` is no function, or a setting is no number.
        ValueError: ``steps`` or ``growth`` is not positive.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> l0.schedules.repeated(l0.schedules.linear(1.0, 0.0, 4), 4)(torch.arange(6))
        tensor([1.0000, 0.7500, 0.5000, 0.2500, 1.0000, 0.7500])
    """
    _check_schedule(schedule)
    _check_steps(steps)
    check_number("growth", growth)
    if growth < 1 or growth != int(growth):
        raise ValueError(f"A round is a whole number of times as long as the last; got {growth}.")

    def repeating(step: Tensor | int) -> Tensor:
        at = torch.as_tensor(step)
        if growth == 1:
            return schedule(at % steps)
        # Round n begins at steps (growth^n - 1) / (growth - 1).
        rounds = (at.double() * (growth - 1) / steps + 1).log() / math.log(growth)
        stretch = growth ** (rounds + 1e-9).floor()
        begin = steps * (stretch - 1) / (growth - 1)
        return schedule((at - begin) / stretch)

    return repeating


def from_torch(scheduler: Callable[..., Any], lr: float, steps: int, **settings: Any) -> Schedule:
    """The learning rates of a torch scheduler, as a function of the step.

    Args:
        scheduler: A class in ``torch.optim.lr_scheduler``, or a function from an optimizer to a
            scheduler.
        lr: The learning rate that the scheduler starts from.
        steps: Number of steps to tabulate, at least 1; the last rate stays.
        **settings: The scheduler's keyword arguments.

    Returns:
        A function of the step.

    Raises:
        TypeError: The scheduler follows a metric, as ``ReduceLROnPlateau`` does; or it is no class
            and no function.
        ValueError: ``steps`` is not positive.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> kind = torch.optim.lr_scheduler.StepLR
        >>> schedule = l0.schedules.from_torch(kind, 0.1, 100, step_size=2, gamma=0.5)
        >>> [schedule(step).item() for step in (0, 1, 2, 4)]
        [0.1, 0.1, 0.05, 0.025]
    """
    _check_steps(steps)
    check_number("The learning rate that a scheduler starts from", lr)
    _check_scheduler(scheduler)
    # Cyclic schedulers want a momentum, which does not change the rates.
    optimizer: Any = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr, momentum=0.9)
    running = scheduler(optimizer, **settings)
    if isinstance(running, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise TypeError(
            "ReduceLROnPlateau follows a metric, so its rates are no function of the step. Build "
            "a training with the next learning rate when the metric stalls, and pass it the state."
        )
    rates: list[float] = []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        running.step()
    levels = torch.tensor(rates, dtype=torch.float64)

    def schedule(step: Tensor | int) -> Tensor:
        at = torch.as_tensor(step).clamp(0, steps - 1)
        return levels.to(at.device)[at]

    return schedule


def _progress(step: Tensor | int, steps: int, begin: int) -> Tensor:
    return ((torch.as_tensor(step) - begin) / steps).clamp(0.0, 1.0)


def _check_line(start: Any, end: Any, steps: Any, begin: Any) -> None:
    check_number("A schedule's first value", start)
    check_number("A schedule's last value", end)
    check_number("The step at which a schedule begins", begin)
    _check_steps(steps)


def _check_steps(steps: Any) -> None:
    check_number("A schedule's number of steps", steps)
    if steps < 1:
        raise ValueError(
            f"A schedule takes at least one step from its first value to its last; got {steps}."
        )


def _check_schedule(schedule: object) -> None:
    if not callable(schedule):
        raise TypeError(
            "A schedule to repeat is a function of the step, such as linear(0.1, 0.0, 50); got "
            f"{with_type(schedule)}."
        )


def _check_scheduler(scheduler: object) -> None:
    if callable(scheduler):
        return
    kind = type(scheduler).__name__
    is_running = isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
    hint = f" Give the class, {kind}, and its settings." if is_running else ""
    raise TypeError(
        "scheduler is a class in torch.optim.lr_scheduler, such as "
        f"torch.optim.lr_scheduler.StepLR; got {with_type(scheduler)}.{hint}"
    )
