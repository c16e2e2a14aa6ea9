"""The attributes that a module's forward writes, as later calls read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from l0func.module.exchange import Exchange


class _RowValue(NamedTuple):
    """A value for every row, and the value that forward starts from."""

    value: Any
    before: Any


class Written:
    """The names of the attributes that forward has written so far, by module path.

    A call reads these from the module itself. Those with a value for every row are there for the
    user: the next forward would take it for the value of one row, and starts from the value
    before.
    """

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}
        self._rows: dict[tuple[str, str], _RowValue] = {}

    def note(self, path: str, names: Sequence[str]) -> None:
        """Take note of attributes that forward wrote."""
        known = self.names.setdefault(path, [])
        known.extend(name for name in names if name not in known)
        for name in names:
            self._rows.pop((path, name), None)

    def start(self, path: str, module: nn.Module, name: str) -> Any:
        """The value of a module's attribute that forward starts from; None without one."""
        value = vars(module).get(name)
        row = self._rows.get((path, name))
        return row.before if row is not None and row.value is value else value

    def note_rows(self, path: str, name: str, value: Any, before: Any) -> None:
        """Take note of an attribute's value for every row."""
        self._rows[path, name] = _RowValue(value, before)

    def current(self, modules: Mapping[str, nn.Module]) -> Written:
        """The same without values that the modules hold no longer."""
        found = Written()
        found.names = {path: list(names) for path, names in self.names.items()}
        for (path, name), row in self._rows.items():
            if path in modules and vars(modules[path]).get(name) is row.value:
                found.note_rows(path, name, *row)
        return found

    def fill(self, clones: Sequence[nn.Module], modules: Mapping[str, nn.Module]) -> None:
        """Give clones the present values of the attributes that forward writes.

        Args:
            clones: The clones for one call.
            modules: The modules behind them, by path.
        """
        if not self.names:
            return
        exchange = Exchange(list(modules.values()), clones)
        for (path, module), clone in zip(modules.items(), clones, strict=True):
            for name in self.names.get(path, []):
                if name in vars(module):
                    vars(clone)[name] = exchange(self.start(path, module, name))
                else:
                    vars(clone).pop(name, None)
