"""The function of a module that its owner may still change between calls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

from torch import Tensor, nn

from l0func.internal.context import compiling
from l0func.internal.tree import Pytree
from l0func.module.rows import takes_rows
from l0func.module.shards import late_parameters
from l0func.module.snapshot import Fingerprint, Snapshot, container_names
from l0func.module.written import Written
from l0func.pure.functional import PureModule
from l0func.pure.originals import Originals


class Live:
    """A module as a pure function, and everything by which a change of the module shows.

    Args:
        module: The module.
        written: The attributes that forward has written so far.
        originals: The tensors of the module that this one is a copy of: closures still hold them.
        before: The function of the module before its latest change; it warned once for both.
    """

    def __init__(
        self,
        module: nn.Module,
        written: Written,
        originals: Originals,
        before: Live | None = None,
    ) -> None:
        self.root = module
        self.written = written
        self.fn = PureModule(module).guarding(originals)
        if before is not None:
            self.fn.other_draws = before.fn.other_draws
        self.modules = dict(named_modules(module))
        self.params: dict[str, Tensor] = dict(module.named_parameters())
        self.buffers: dict[str, Tensor] = dict(module.named_buffers())
        self.takes_rows = takes_rows(module)
        self.late = late_parameters(self.modules, self.params)
        self._containers = {path: container_names(m) for path, m in self.modules.items()}
        self._fingerprint = Fingerprint(self.modules.values())

    def fits(self, module: nn.Module) -> bool:
        """Whether this is still the function of the module.

        It is not after a change of mode, attributes, hooks, submodules or parameter objects.
        """
        if module is not self.root:
            return False
        if compiling():
            own = [self.written.names.get(path, []) for path in self.modules]
            return self._fingerprint.fits_but_for(own)
        return self._fingerprint.fits()

    def assembled(self, params: Pytree, buffers: Pytree) -> list[nn.Module]:
        """Clones for one call, as :meth:`PureModule.assembled` gives them."""
        clones = self.fn.assembled(params, buffers)
        self.written.fill(clones, self.modules)
        return clones

    def snapshots(self, clones: Sequence[nn.Module]) -> list[Snapshot]:
        """The clones' attributes now, with copies of all containers that forward may change."""
        found: list[Snapshot] = []
        for clone, path in zip(clones, self.modules, strict=True):
            names = [*self._containers[path], *self.written.names.get(path, [])]
            found.append(Snapshot(clone, names))
        return found

    def refresh(self) -> None:
        """Accept the module's present attributes, after forward wrote some of them."""
        if not compiling():
            self._fingerprint = Fingerprint(self.modules.values())


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
