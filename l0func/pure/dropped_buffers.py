"""Buffers that a module changes in a call that returns its output alone: found, and told once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from l0func.internal import tree
from l0func.internal.tree import Pytree
from l0func.internal.untyped import TENSOR, untyped
from l0func.internal.watch import CallWatch, current_watch, listed_names, warn_user
from l0func.pure.part import Part


class DroppedBuffers:
    """Whether a pure function has warned; all functions that are derived from it share this."""

    def __init__(self) -> None:
        self.told = False

    def tell(self, paths: Iterable[str]) -> None:
        """Warn at the user's line, the first time."""
        changed = list(paths)
        if self.told or not changed:
            return
        self.told = True
        warn_user(
            f"This call changed the buffers {listed_names(changed)}, and the changes are lost: a "
            "pure function keeps nothing, and a plain call returns the output alone. In training, "
            "call with_buffers (of fn, of l0func.gated's or of l0func.per_example's function), "
            "which also returns the new buffers, and pass these to the next call; a loss for "
            "l0func.training returns (loss, new buffers). To evaluate, call fn.eval(): it "
            "normalises by the running statistics and changes none. This warning comes once for "
            "each function."
        )


def report_changes(
    watch: CallWatch, modules: Iterable[tuple[Part, nn.Module]], copies: Mapping[str, Tensor]
) -> None:
    """Report the buffers that modules in training mode changed in a call.

    Args:
        watch: The watch to report to.
        modules: Each module as the call left it, with its part.
        copies: The buffers as the call got them: fresh copies, by path.
    """
    for part, module in modules:
        if not module.training:
            continue
        for path, now in part.buffers_of(module):
            if now is not copies[path] or watch.has_written(now):
                watch.changed[path] = None


def report_frozen(params: Pytree, frozen: frozenset[str]) -> None:
    """Report the parameters that a call uses and that its module had frozen, if watched."""
    watch = current_watch()
    if watch is None or not frozen:
        return
    for path, t in tree.leaves(params).items():
        if path in frozen:
            watch.add_frozen(t)


def _data(mode: Any, func: Any, tensor: Tensor) -> Tensor:
    """``tensor.data``, which has a version of its own."""
    view = func(tensor)
    watch = current_watch()
    if watch is not None:
        watch.add_view(tensor, view)
    return view


def _batch_norm_at(place: int) -> Callable[..., Any]:
    """A handler for a batch normalisation with the running statistics from ``place`` on.

    Without gradients torch leaves no trace of the write in their versions.
    """

    def handler(mode: Any, func: Any, /, *args: Any, **named: Any) -> Any:
        watch = current_watch()
        running = [*args[place : place + 2], named.get("running_mean"), named.get("running_var")]
        training = named.get("training", args[5] if len(args) > 5 else False)
        if watch is not None and training:
            for t in running:
                if isinstance(t, Tensor):
                    watch.add_written(t)
        return func(*args, **named)

    return handler


WATCH_HANDLERS: dict[Any, Callable[..., Any]] = {
    TENSOR.data.__get__: _data,
    F.batch_norm: _batch_norm_at(1),
    untyped.batch_norm: _batch_norm_at(3),
    untyped.native_batch_norm: _batch_norm_at(3),
}
"""Handlers that see writes which leave no trace in a tensor's version."""
