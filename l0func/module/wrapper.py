"""The base of :class:`L0Module`: what trainers and savers ask of a module around another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import nn

from l0func.module import refusals
from l0func.module.signature import show_signature, without_signature
from l0func.module.tied import tied_paths


class Wrapper(nn.Module):
    """An abstract module around another one, ``self.module``.

    Its ``state_dict`` has each tensor once, under its first path: tied weights are one tensor in
    a file, and trainers refuse to save two names of one memory.
    """

    module: nn.Module

    @property
    def activation_checkpointing_enable(self) -> Callable[..., None]:
        """The wrapped module's method; it is absent where that has none."""
        return cast("Any", self.module).activation_checkpointing_enable

    @property
    def activation_checkpointing_disable(self) -> Callable[..., None]:
        """The wrapped module's method; it is absent where that has none."""
        return cast("Any", self.module).activation_checkpointing_disable

    @property
    def gradient_checkpointing_enable(self) -> Callable[..., None]:
        """The wrapped module's method; it is absent where that has none."""
        return cast("Any", self.module).gradient_checkpointing_enable

    @property
    def gradient_checkpointing_disable(self) -> Callable[..., None]:
        """The wrapped module's method; it is absent where that has none."""
        return cast("Any", self.module).gradient_checkpointing_disable

    def state_dict(
        self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """The state, as for any module, with each tied tensor once."""
        parent: Any = super()
        found = parent.state_dict(
            *args, destination=destination, prefix=prefix, keep_vars=keep_vars
        )
        start = args[1] if len(args) > 1 else prefix
        for _, other in tied_paths(self.module):
            found.pop(f"{start}module.{other}", None)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return without_signature(vars(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        parent: Any = super()
        parent.__setstate__(state)
        show_signature(self, self.module)

    def __prepare_scriptable__(self) -> nn.Module:
        """Refuse ``torch.jit.script``, which asks for a module to compile in place of this one."""
        raise refusals.no_scripting()

    def _replicate_for_data_parallel(self) -> Any:
        raise refusals.no_data_parallel()
