"""A context that watches pure calls for changed buffers and frozen parameters, and a stack level.

A pure module reports to the innermost watch; whoever opened it decides about a warning.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any

from torch import Tensor

from l0func.internal.untyped import untyped


class CallWatch:
    """The reports of the pure calls inside a context.

    Attributes:
        changed: Paths of buffers that a call changed, in their order.
        frozen: Parameters that a call used and its module had frozen, by ``id``.
    """

    def __init__(self, outer: CallWatch | None) -> None:
        self.outer = outer
        self.changed: dict[str, None] = {}
        self.frozen: dict[int, Tensor] = {}
        self._written: list[Tensor] = []
        self._views: list[tuple[Tensor, Tensor]] = []

    def add_written(self, tensor: Tensor) -> None:
        """Remember a tensor that torch writes without a trace in its version."""
        self._written.append(tensor)

    def add_view(self, tensor: Tensor, view: Tensor) -> None:
        """Remember a view with a version of its own, such as ``tensor.data``."""
        self._views.append((tensor, view))

    def add_frozen(self, tensor: Tensor) -> None:
        """Remember a frozen parameter, here and in the outer watches."""
        watch: CallWatch | None = self
        while watch is not None:
            watch.frozen[id(tensor)] = tensor
            watch = watch.outer

    def has_written(self, copy: Tensor) -> bool:
        """Whether a fresh copy was written in place.

        Args:
            copy: A clone that nothing had written when the watch began.
        """
        if _writes(copy) > 0 or any(copy is tensor for tensor in self._written):
            return True
        views = [view for tensor, view in self._views if tensor is copy]
        return any(_writes(view) > 0 for view in views)


_WATCH: ContextVar[CallWatch | None] = ContextVar("l0func_watch", default=None)


def current_watch() -> CallWatch | None:
    """The innermost watch in this thread, or None."""
    return _WATCH.get()


@contextmanager
def watching() -> Generator[CallWatch]:
    """A context in which pure calls report to a new watch."""
    watch = CallWatch(current_watch())
    token = _WATCH.set(watch)
    try:
        yield watch
    finally:
        _WATCH.reset(token)


def _writes(tensor: Any) -> int:
    """The number of writes into a tensor, through all transforms that wrap it."""
    functorch: Any = untyped._C._functorch
    count = 0
    while True:
        # torch counts no writes into tensors that inference mode made.
        count += 0 if tensor.is_inference() else tensor._version
        if not (functorch.is_batchedtensor(tensor) or functorch.is_gradtrackingtensor(tensor)):
            return count
        tensor = functorch.get_unwrapped(tensor)


def warn_user(message: str, kind: type[Warning] = UserWarning) -> None:
    """Warn at the line outside of this package and of torch that led here."""
    frame = inspect.currentframe()
    level = 1
    while frame is not None and _is_inner(frame):
        frame = frame.f_back
        level += 1
    warnings.warn(message, kind, stacklevel=level)


def _is_inner(frame: FrameType) -> bool:
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return package in ("l0func", "torch")


def listed_names(names: list[str]) -> str:
    """The first four names, quoted, and the number of the others."""
    listing = ", ".join(map(repr, names[:4]))
    rest = len(names) - 4
    return f"{listing} and {rest} more" if rest > 0 else listing
