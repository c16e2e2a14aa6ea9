"""Hooks that somebody registers on the clones of a call: forward itself, or a mode around it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from l0func.pure.part import HOOK_TABLES


class GivenHook:
    """A hook of a clone on the module itself, until its handle removes it.

    The handle knows the clone's tables only, by weak references, and removes the hook there.

    Args:
        hook: The hook; True in a table that describes hooks.
        number: Its number in the table.
        table: The clone's table.
    """

    def __init__(self, hook: Any, number: int, table: dict[int, Any]) -> None:
        self.hook = hook
        self.number = number
        self.table = table

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the hook returns; None, for no change, after its removal."""
        return None if self.is_removed() else self.hook(*args, **kwargs)

    def is_removed(self) -> bool:
        """Whether its handle has removed it."""
        return self.number not in self.table


def give_hooks(clones: Iterable[nn.Module], modules: Iterable[nn.Module]) -> bool:
    """Give the modules the hooks that were registered on their clones.

    Returns:
        Whether there were any.
    """
    found = False
    for clone, module in zip(clones, modules, strict=True):
        now, own = vars(clone), vars(module)
        for name in HOOK_TABLES:
            if now.get(name) and now[name].keys() - own[name].keys():
                _add(own[name], now[name])
                found = True
    return found


def _add(own: dict[int, Any], now: dict[int, Any]) -> None:
    """Add the new hooks to a module's table, and drop those that were removed since."""
    for number, hook in list(own.items()):
        if isinstance(hook, GivenHook) and hook.is_removed():
            del own[number]
    for number, hook in now.items():
        if number not in own and not isinstance(hook, GivenHook):
            own[number] = GivenHook(hook, number, now)
