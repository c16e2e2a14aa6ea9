"""Rules from a file: each kind by its name, with settings that are checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, cast

from l0func.internal.strict_json import shown
from l0func.spec.rules import Rule, axes, axis, blocks, element, tiles, whole

RULES: tuple[type[Rule], ...] = (element, whole, axis, axes, blocks, tiles)
KINDS = {rule.__name__: rule for rule in RULES}


def rule_from_dict(record: Mapping[str, Any], /) -> Rule:
    """The rule that ``to_dict`` wrote.

    Raises:
        ValueError: The rule is unknown, lacks a setting, or has an unknown or a wrong one.
    """
    settings = dict(record)
    name = settings.pop("rule", None)
    if not isinstance(name, str) or name not in KINDS:
        raise ValueError(f"A rule is one of {sorted(KINDS)}; the record says {shown(name)}.")
    kind = KINDS[name]
    allowed = {field.name: field for field in fields(kind)}
    for setting, value in settings.items():
        if setting not in allowed:
            raise ValueError(f"{name} has no setting {shown(setting)}; it has {list(allowed)}.")
        if not _is_setting(setting, value):
            raise ValueError(f"{name}'s {setting} is made of integers; got {shown(value)}.")
    for setting, field in allowed.items():
        if field.default is MISSING and setting not in settings:
            raise ValueError(f"{name} lacks its setting {setting!r}.")
    return axes(*settings["dims"]) if kind is axes else kind(**settings)


def _is_setting(name: str, value: Any) -> bool:
    """Whether a value from JSON may be this setting: True and 1.0 are no integers."""
    if name == "dims":
        several = isinstance(value, list | tuple)
        return several and all(type(dim) is int for dim in cast("Sequence[Any]", value))
    return type(value) is int or (name == "stop" and value is None)
