"""The function of a module that its owner may still change between calls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from torch import Tensor, nn

from l0func.module.snapshot import Fingerprint, container_names
from l0func.pure.functional import PureModule


class Live:
    """A module as a pure function, and everything by which a change of the module shows.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.root = module
        self.fn = PureModule(module)
        self.modules = dict(named_modules(module))
        self.params: dict[str, Tensor] = dict(module.named_parameters())
        self.buffers: dict[str, Tensor] = dict(module.named_buffers())
        self.containers = [container_names(m) for m in self.modules.values()]
        self._fingerprint = Fingerprint(self.modules.values())

    def fits(self, module: nn.Module) -> bool:
        """Whether this is still the function of the module.

        It is not after a change of mode, attributes, hooks, submodules or parameter objects.
        """
        return module is self.root and self._fingerprint.fits()


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
