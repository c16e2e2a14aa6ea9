"""Refusals of a stack of networks where one network is wanted."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from l0func.internal.context import is_mapped


def check_not_mapped(reason: str, /, **trees: Mapping[str, Tensor]) -> None:
    """Refuse tensors that a torch.vmap around the call maps: a member's values cannot be read.

    Args:
        reason: Who needs the values, for the message.
        **trees: Flat tensors, under the names that the caller's arguments have.

    Raises:
        ValueError: A tensor is mapped; the message names it and :func:`l0func.unstack`.
    """
    for label, tensors in trees.items():
        for path, tensor in tensors.items():
            if is_mapped(tensor):
                raise ValueError(
                    f"{reason}, and {path!r} in {label} has a value for each member of a "
                    "torch.vmap around this call. Take the stack apart, and call this for each "
                    "member outside of torch.vmap: for state in l0func.unstack(states)."
                )


def stack_words(
    label: str, shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]
) -> str:
    """What to do about tensors that look like a stack of networks; empty for any others.

    Args:
        label: The name of the tensors' argument.
        shapes: The shapes of one network, by path.
        tensors: Tensors under the same paths.
    """
    members: set[int] = set()
    for path, shape in shapes.items():
        got = tuple(tensors[path].shape)
        if got[1:] != tuple(shape) or len(got) != len(shape) + 1:
            return ""
        members.add(got[0])
    if len(members) != 1:
        return ""
    return (
        f"Every tensor in {label} has one more dimension, of size {members.pop()}, as in a stack "
        f"of networks. Take the stack apart with l0func.unstack({label}), and give one member's."
    )
