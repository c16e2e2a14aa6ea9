"""Checks of an optimizer's settings: torch's own errors name none, or come steps later."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from l0func.internal.names import closest
from l0func.internal.scalars import with_type
from l0func.internal.watch import listed_names
from l0func.train.factory import PROBE_SHAPE, Factory, name_of, several

_SCHEDULERS = (LRScheduler, ReduceLROnPlateau)
_ERRORS = (RuntimeError, TypeError, ValueError, IndexError, AttributeError)


def check_settings(kind: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    """Refuse settings that the optimizer does not have, and schedules that are none.

    Args:
        kind: The optimizer's class.
        settings: Its keyword arguments.

    Raises:
        TypeError: A name is unknown, or a value is a scheduler of torch or no function of a step.
    """
    known = inspect.signature(kind).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    for name, setting in settings.items():
        if name not in known and not takes_any:
            raise _unknown(kind, name, [other for other in known if other != "params"])
        _check_takes_step(name, setting)


def _unknown(kind: Any, name: str, known: list[str]) -> TypeError:
    initials = "".join(word[:1] for word in name.split("_"))
    near = f"; you may mean {initials!r}" if initials in known else closest(name, known, 0.6)
    return TypeError(
        f"{name_of(kind)} has no setting {name!r}{near}. Its settings are {', '.join(known)}."
    )


def _check_takes_step(name: str, setting: Any) -> None:
    """Refuse a torch scheduler, and a function that does not take a step."""
    scheduler = setting if isinstance(setting, type) else type(setting)
    if issubclass(scheduler, _SCHEDULERS):
        given = scheduler.__name__
        raise TypeError(
            f"{name} is a scheduler of torch, {given}, which writes into an optimizer, and a pure "
            f"step has none. Pass a function of the step: {name}=l0func.schedules.from_torch("
            f"torch.optim.lr_scheduler.{given}, lr, steps, ...)."
        )
    if not callable(setting):
        return
    try:
        inspect.signature(setting).bind(torch.tensor(0))
    except TypeError as error:
        raise TypeError(
            f"{name} is a function, and so a schedule, which is called with the step alone and "
            f"gives a number; this one does not take the step: {error}. A ready-made one is "
            "l0func.schedules.linear(start, end, steps)."
        ) from None
    except ValueError:
        # A function in C may have no signature.
        return


def check_builds(factory: Factory) -> None:
    """Name the settings where torch refuses them in words of its own.

    Raises:
        TypeError: The optimizer does not take a setting of such a type.
        ValueError: It does not take a setting of several numbers, or of such a value.
    """
    try:
        factory.steady([torch.zeros(PROBE_SHAPE)])
    except _ERRORS as error:
        found = several(factory.settings)
        if found:
            raise ValueError(
                f"{name_of(factory.kind)} takes no {listed_names(found)} of several numbers: "
                f"{error}. A setting is one for all members of a sweep. Members with other "
                "settings are a sweep of their own, with an optimizer of their own."
            ) from None
        name = None if isinstance(error, ValueError) else _to_blame(factory)
        if name is None or callable(factory.settings[name]):
            raise
        raise _of_setting(factory, name, error) from error


def _to_blame(factory: Factory) -> str | None:
    """The first setting without which the optimizer builds."""
    for name in factory.settings:
        rest = {other: value for other, value in factory.settings.items() if other != name}
        try:
            replace(factory, settings=rest).steady([torch.zeros(PROBE_SHAPE)])
        except _ERRORS:
            continue
        return name
    return None


def _of_setting(factory: Factory, name: str, error: Exception) -> TypeError:
    kind = name_of(factory.kind)
    setting: Any = factory.settings[name]
    start = f"{kind} does not take {name}={with_type(setting)}: {error}."
    parts: list[Any] = list(setting) if type(setting) in (tuple, list) else []
    if any(map(callable, parts)):
        return TypeError(
            f"{start} A schedule stands for a whole setting that is one number, such as lr; the "
            f"numbers in {name} are fixed."
        )
    parameter = inspect.signature(factory.kind).parameters.get(name)
    has_default = parameter is not None and parameter.default is not parameter.empty
    default = f" Its default is {parameter.default!r}." if parameter and has_default else ""
    return TypeError(
        f"{start}{default} A setting that is a number may also be a schedule, a function from the "
        "step to a number."
    )
