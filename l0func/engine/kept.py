"""Tensors that a forward hook keeps from inside a mapped call: a warning, and an end in words."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from l0func.internal import tree
from l0func.internal.context import is_mapped_with
from l0func.internal.descriptions import DESCRIPTIONS
from l0func.pure.functional import PureModule

_REASON = (
    "Inside per_example a module sees one row, as a batch of one, and its tensors end with the "
    "call. Return the activation from forward as a further output: per_example joins its rows."
)


class EndedRow(Tensor):
    """A tensor of a single row whose call has ended; every use of it is refused."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in DESCRIPTIONS:
            # A shape still holds, as the module saw it: that of a batch of one.
            parent: Any = super()
            return parent.__torch_function__(func, types, args, kwargs or {})
        raise RuntimeError(f"This tensor escaped from inside a row of per_example. {_REASON}")

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return "<a tensor that escaped from inside a row of per_example>"


class Kept:
    """The tensors that torch functions returned inside a mapped call, by weak references.

    vmap ends them with the call. A tensor that is still alive after it was kept by a hook.

    Args:
        modules: The paths of the modules with forward hooks.
    """

    def __init__(self, modules: Iterable[str]) -> None:
        self.modules = list(modules)
        self.seen: list[weakref.ref[Tensor]] = []

    def note(self, result: Any, row: Tensor) -> None:
        """Remember the tensors in a function's result that belong to single rows.

        Args:
            result: The result; some functions return an argument, which may be the user's own.
            row: A tensor that the vmap over rows maps.
        """
        for _, leaf in tree.walk(result):
            if type(leaf) is Tensor and is_mapped_with(row, [leaf]):
                self.seen.append(weakref.ref(leaf))

    def end(self) -> None:
        """Warn if tensors have outlived the call, and make every use of them say why not."""
        alive = [tensor for reference in self.seen if (tensor := reference()) is not None]
        if not alive:
            return
        for tensor in alive:
            tensor.__class__ = EndedRow
        paths = ", ".join(repr(path) for path in self.modules)
        warnings.warn(
            f"A forward hook, on the modules {paths}, kept a tensor of a row. {_REASON}",
            stacklevel=4,
        )


def watch_hooks(apply: Any) -> Kept | None:
    """A watch over a gated function, if its module has forward hooks."""
    fn = getattr(apply, "fn", None)
    if not isinstance(fn, PureModule):
        return None
    hooked = [path for path, part in fn.parts() if part.attribute("_forward_hooks")]
    return Kept(hooked) if hooked else None
