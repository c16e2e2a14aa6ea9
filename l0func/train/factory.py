"""A torch optimizer class with its settings, schedules among them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from l0func.internal.context import known_values

# The shape of a small matrix to try a new optimizer on.
PROBE_SHAPE = (2, 3)

# Steps at which a trial asks a schedule that begins at 0, such as a warmup.
_LATER_STEPS = (1, 10, 100, 1000, 10_000)


def several(settings: Mapping[str, Any]) -> list[str]:
    """Names of the settings that are tensors with more than one number."""
    return [name for name, t in settings.items() if isinstance(t, Tensor) and t.numel() > 1]


@dataclass(frozen=True)
class Factory:
    """A torch optimizer class with its settings, schedules among them."""

    kind: Callable[..., torch.optim.Optimizer]
    settings: Mapping[str, Any]

    def build(self, leaves: list[Tensor], step: Tensor) -> torch.optim.Optimizer:
        """A torch optimizer for these leaves, with its settings at this step."""
        values = {
            name: _setting_at(name, setting, step) for name, setting in self.settings.items()
        }
        return self.kind(leaves, **values)

    def steady(self, leaves: list[Tensor]) -> torch.optim.Optimizer:
        """A torch optimizer for a trial, whose schedules stand still where they are not 0."""
        return self.kind(leaves, **self.steady_settings)

    @cached_property
    def steady_settings(self) -> dict[str, Any]:
        """The settings for a trial."""
        return {name: _setting_on_the_way(name, value) for name, value in self.settings.items()}


def _setting_at(name: str, setting: Any, step: Tensor) -> Any:
    if not callable(setting):
        return setting
    value = setting(step)
    number = known_values(value) if isinstance(value, Tensor) else value
    if not isinstance(number, int | float) or not math.isfinite(number):
        raise ValueError(
            f"A schedule gives one finite number for each step; {name} is {value!r} at step "
            f"{int(step)}."
        )
    return number


def _setting_on_the_way(name: str, setting: Any) -> Any:
    """A setting, or the first value of its schedule that is not 0 as far as a trial looks."""
    value = _setting_at(name, setting, torch.tensor(0))
    if not callable(setting):
        return value
    for step in _LATER_STEPS:
        if value != 0:
            break
        try:
            value = _setting_at(name, setting, torch.tensor(step))
        except Exception:
            # A schedule may end before.
            break
    return value


def name_of(kind: Any) -> str:
    """A name for an optimizer's class in an error."""
    return getattr(kind, "__name__", "This optimizer")
