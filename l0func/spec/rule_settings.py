"""Checks of the numbers that a rule is made with, at the call that makes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from l0func.internal.scalars import integer


def whole_settings(rule: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a rule as Python integers; None for an open end stays None.

    Args:
        rule: The rule's name, for an error.
        settings: ``{setting: number}``; ``dims`` has several.

    Raises:
        TypeError: A setting is no integer.
    """
    checked: dict[str, Any] = {}
    for name, value in settings.items():
        if name == "dims":
            checked[name] = _whole_dimensions(rule, value)
        elif name == "stop" and value is None:
            checked[name] = None
        else:
            checked[name] = _whole_number(f"{rule}'s {name}", value)
    return checked


def _whole_dimensions(rule: str, dims: Sequence[Any]) -> tuple[int, ...]:
    for dim in dims:
        if isinstance(dim, list | tuple):
            inside = ", ".join(map(str, cast("Sequence[Any]", dim)))
            raise TypeError(f"{rule} takes its dimensions one by one: {rule}({inside}).")
    return tuple(_whole_number(f"A dimension of {rule}", dim) for dim in dims)


def _whole_number(name: str, value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{name} is an integer; got {value}.")
    return integer(value, name)
