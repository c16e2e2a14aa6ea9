"""The functions of the public submodules, by name."""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

import l0func as l0

PLACES = ("distributions", "plot", "random", "schedules")


def functions_of_submodules() -> Iterator[str]:
    """Names such as ``random.split``."""
    for place in PLACES:
        module = getattr(l0, place)
        own = [name for name, value in vars(module).items() if _is_own(module, value)]
        for name in getattr(module, "__all__", own):
            if isinstance(getattr(module, name), FunctionType) and not name.startswith("_"):
                yield f"{place}.{name}"


def _is_own(module: ModuleType, value: Any) -> bool:
    return getattr(value, "__module__", "") == module.__name__
