"""Tied tensors: parameters and buffers that a module holds under several paths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

from torch import Tensor, nn


def tied_paths(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Pairs of paths to one tensor: its first path, and each other one."""
    first: dict[int, str] = {}
    for path, tensor in _tensors_by_every_name(module):
        known = first.setdefault(id(tensor), path)
        if known != path:
            yield known, path


def share_tied(module: nn.Module, state_dict: dict[str, Any], prefix: str) -> None:
    """Give all names of one tensor its value, where a checkpoint has only some of them.

    Args:
        module: The module.
        state_dict: The checkpoint, which gets the other names.
        prefix: The module's path in it, with a dot.
    """
    for first, other in tied_paths(module):
        names = (f"{prefix}{first}", f"{prefix}{other}")
        for known, missing in (names, names[::-1]):
            if known in state_dict:
                state_dict.setdefault(missing, state_dict[known])


def _tensors_by_every_name(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    inner = cast("Any", module)
    named: Iterable[tuple[str, Tensor]] = inner.named_parameters(remove_duplicate=False)
    buffers: Iterable[tuple[str, Tensor]] = inner.named_buffers(remove_duplicate=False)
    yield from named
    yield from buffers
