"""The buffers of a module after a call: changed, replaced, or new."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from l0func.internal.context import compiling
from l0func.module.live import Live
from l0func.module.snapshot import Snapshot


def new_buffers(clones: Sequence[nn.Module], before: Sequence[Snapshot]) -> Iterator[Tensor]:
    """The buffers that forward put where there were none."""
    for clone, snapshot in zip(clones, before, strict=True):
        old = _buffers_before(clone, snapshot)
        for name, buffer in vars(clone)["_buffers"].items():
            if buffer is not None and old.get(name) is None:
                yield buffer


@torch.no_grad()
def write_buffers(
    live: Live,
    clones: Sequence[nn.Module],
    before: Sequence[Snapshot],
    updated: Mapping[str, Tensor],
    outside: Mapping[int, Tensor],
) -> bool:
    """Write the buffers of a call into the module.

    Args:
        live: The module.
        clones: The modules of the call.
        before: Their attributes before it.
        updated: The buffers after it, by path.
        outside: Other tensors in place of new buffers, by ``id``.

    Returns:
        Whether the module has other buffers now, and not only other values in them.
    """
    kept = True
    # torch's batch norm does not count its change of the running statistics as one.
    trains = any(module.training for module in live.modules.values())
    parts = [part for _, part in live.fn.parts()]
    for part, module, clone, snapshot in zip(
        parts, live.modules.values(), clones, before, strict=True
    ):
        paths, old = part.paths(), _buffers_before(clone, snapshot)
        for name, buffer in vars(clone)["_buffers"].items():
            if buffer is None:
                kept = kept and old.get(name) is None
                vars(module)["_buffers"][name] = None
            elif trains or _is_changed(buffer, old.get(name)):
                known = updated.get(paths.get(name, ""))
                new = outside.get(id(buffer), buffer) if known is None else known
                kept = _write_buffer(vars(module)["_buffers"], name, new) and kept
    return not kept


def _buffers_before(clone: nn.Module, snapshot: Snapshot) -> dict[str, Any]:
    return snapshot.items_before(vars(clone)["_buffers"]) or {}


def _is_changed(now: Tensor, before: Tensor | None) -> bool:
    return now is not before or (not compiling() and now._version > 0)


def _write_buffer(buffers: dict[str, Tensor | None], name: str, new: Tensor) -> bool:
    """Write a buffer; into the old one if it fits, which the result says."""
    old = buffers.get(name)
    fits = old is not None and (old.shape, old.dtype) == (new.shape, new.dtype)
    if old is not None and fits:
        old.copy_(new)
    else:
        buffers[name] = new.detach()
    return fits
