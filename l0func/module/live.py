"""The function of a module that its owner may still change between calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from l0func.module.snapshot import Fingerprint, container_names
from l0func.pure.functional import PureModule


class _RowValue(NamedTuple):
    """An attribute with a value for every row, which is for its reader and not for forward.

    Args:
        path: The module's path.
        name: The attribute's name.
        value: The value for all rows.
        before: The value that forward starts from, with places for tensors and modules.
    """

    path: str
    name: str
    value: Any
    before: Any


class Live:
    """A module as a pure function, and everything by which a change of the module shows.

    Args:
        module: The module.
        earlier: The same at an earlier moment.
    """

    def __init__(self, module: nn.Module, earlier: Live | None = None) -> None:
        self.root = module
        self.fn = PureModule(module)
        self._row_values: dict[tuple[str, str], _RowValue] = {}
        self.modules = dict(named_modules(module))
        self.params: dict[str, Tensor] = dict(module.named_parameters())
        self.buffers: dict[str, Tensor] = dict(module.named_buffers())
        self.containers = [container_names(m) for m in self.modules.values()]
        self._fingerprint = Fingerprint(self.modules.values())
        if earlier is not None and earlier._row_values:
            self._keep_row_values(earlier._row_values)

    def fits(self, module: nn.Module) -> bool:
        """Whether this is still the function of the module.

        It is not after a change of mode, attributes, hooks, submodules or parameter objects.
        """
        return module is self.root and self._fingerprint.fits()

    def note_rows(self, number: int, name: str, value: Any) -> None:
        """Take note of an attribute that now has a value for every row.

        The next forward would take it for the value of one row, so it starts from the value
        before.

        Args:
            number: The number of the module in the tree.
            name: The attribute's name.
            value: The value for all rows.
        """
        path, part = list(self.fn.parts())[number]
        attributes = part.attributes()
        if name in attributes:
            self._row_values[path, name] = _RowValue(path, name, value, attributes[name])

    def _keep_row_values(self, earlier: Mapping[tuple[str, str], _RowValue]) -> None:
        parts = dict(self.fn.parts())
        for place, row in earlier.items():
            module = self.modules.get(row.path)
            if module is not None and vars(module).get(row.name) is row.value:
                parts[row.path] = parts[row.path].with_attribute(row.name, row.before)
                self._row_values[place] = row
        self.fn = self.fn.resized(self.fn.shapes, parts)


def with_modes(module: nn.Module, other: nn.Module) -> nn.Module:
    """The module, its submodules in the modes of another module's at the same paths.

    A submodule that the other lacks has the mode of the nearest module above it.
    """
    modes = {path: child.training for path, child in named_modules(other)}
    for path, child in named_modules(module):
        while path not in modes:
            path = path.rpartition(".")[0]
        child.training = modes[path]
    return module


def named_modules(module: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """A module and all below it, by path; each once."""
    return cast("Any", module).named_modules()
