"""Refusals of DTensors: a process holds a part of one, and some functions need all entries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from l0func.internal import tree
from l0func.internal.sharding import are_dtensors_possible, is_dtensor


def check_whole(caller: str, way: str = "", /, **trees: Any) -> None:
    """Refuse DTensors among a call's arguments.

    Args:
        caller: The public function, for the message.
        way: What to do instead; by default to gather the tensors.
        **trees: Pytrees or modules, under the names that the caller's arguments have.

    Raises:
        ValueError: A leaf is a DTensor; the message names it and :func:`l0func.gather`.
    """
    if not are_dtensors_possible():
        return
    for label, value in trees.items():
        for path, leaf in _tensors(value):
            if is_dtensor(leaf):
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
