"""Hooks that forward registers on the clones of a call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from l0func.pure.part import HOOK_TABLES


def give_hooks(clones: Iterable[nn.Module], modules: Iterable[nn.Module]) -> bool:
    """Give the modules the hooks that forward registered on their clones.

    Returns:
        Whether there were any.
    """
    found = False
    for clone, module in zip(clones, modules, strict=True):
        now, own = vars(clone), vars(module)
        for name in HOOK_TABLES:
            if len(now.get(name, ())) > len(own.get(name, ())):
                _add(own[name], now[name])
                found = True
    return found


def _add(own: dict[int, Any], now: dict[int, Any]) -> None:
    for number, hook in now.items():
        own.setdefault(number, hook)
