"""Refusals of DTensors: a process holds a part of one, and some functions need all entries."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from torch import nn

from l0func.internal import tree

# The second is the same module under the name that older torch has for it.
_HOMES = ("torch.distributed.tensor", "torch.distributed._tensor")


def dtensor_kinds() -> tuple[type, ...]:
    """The class of DTensors, if torch's module for them was imported: else there are none."""
    homes = [sys.modules[name] for name in _HOMES if name in sys.modules]
    found = [getattr(home, "DTensor", None) for home in homes]
    return tuple([kind for kind in found if isinstance(kind, type)])


def is_dtensor(value: Any, /) -> bool:
    """Whether a value is a DTensor, of which this process holds a part."""
    return isinstance(value, dtensor_kinds())


def check_whole(caller: str, way: str = "", /, **trees: Any) -> None:
    """Refuse DTensors among a call's arguments.

    Args:
        caller: The public function, for the message.
        way: What to do instead; by default to gather the tensors.
        **trees: Pytrees or modules, under the names that the caller's arguments have.

    Raises:
        ValueError: A leaf is a DTensor; the message names it and :func:`l0func.gather`.
    """
    kinds = dtensor_kinds()
    if not kinds:
        return
    for label, value in trees.items():
        for path, leaf in _tensors(value):
            if isinstance(leaf, kinds):
                where = _path_text(label, path)
                raise ValueError(
                    f"{caller} needs whole tensors, and {where} is a DTensor: this process holds "
                    f"a part of it, by {shown_layout(leaf)}. "
                    f"{way or _way(label, value)}"
                )


def shown_layout(dtensor: Any) -> str:
    """The placements and the mesh of a DTensor, as a short text."""
    mesh = tuple(dtensor.device_mesh.shape)
    return f"{list(dtensor.placements)} over a mesh of shape {mesh}"


def _tensors(value: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of a pytree, or the parameters and buffers of a module."""
    if isinstance(value, nn.Module):
        # A module with uninitialised parameters still lists them.
        module: Any = value
        yield from module.named_parameters()
        yield from module.named_buffers()
        return
    yield from tree.walk(value)


def _path_text(label: str, path: str) -> str:
    return f"{path!r} in {label}" if path else label


def _way(label: str, value: Any) -> str:
    if isinstance(value, nn.Module):
        return (
            "Give it a copy of the module that was not sharded, with the whole weights: "
            f"copy.load_state_dict(l0func.gather({label}.state_dict()))."
        )
    return f"Gather it first, on every process: {label} = l0func.gather({label})."
