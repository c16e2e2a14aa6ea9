"""The state of training, and stacks of states: many networks as one pytree, with a dimension of members in front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l0func import tree
from l0func.lagrangian import LagrangianState
from l0func.optimizer import Moments
from l0func.transforms import listed
from l0func.tree import Tree

# What torch's optimizers count for all entries together.
_COUNTS = (".step", ".mu_product")


class TrainState(NamedTuple):
    """All that training remembers: tensors, so that it is stacked, saved and resumed as one."""

    step: Tensor
    """How many steps there were, an int64 scalar, for all members of a stack."""

    key: Tensor
    """What every draw follows from, shape ``(2,)``: step t draws from ``fold_in(key, t)``."""

    params: Tree
    gates: Tree
    buffers: Tree
    moments: dict[str, Moments]
    """What the optimizers remember, of ``params`` and of ``gates``."""

    averages: Tree
    """Averages of params and gates; empty without."""

    control: LagrangianState | None
    """The state of the controller; None without."""


def stack(states: Sequence[Tree]) -> Tree:
    """Pytrees of the same structure as one, whose tensors have a dimension of members in front.

    Args:
        states: Such as ``[init(key, params, gates, buffers) for key in keys]``. Of a TrainState ``step`` stays one for all.

    Returns:
        One pytree.

    Raises:
        ValueError: There are none, or their names or shapes differ.
    """
    if not states:
        raise ValueError("A stack has at least one member; got none.")
    named = [tree.leaves(state, "a member") for state in states]
    for i, other in enumerate(named):
        tree.check_names(other, named[0], f"The stack, whose member {i} is another,")
        for path, t in other.items():
            if t.shape != named[0][path].shape:
                raise ValueError(
                    f"Members of a stack have the same shapes; {path!r} is {tuple(named[0][path].shape)} in member 0 and "
                    f"{tuple(t.shape)} in member {i}."
                )
    joined = {path: torch.stack([of[path] for of in named]) for path in named[0]}
    shared = named[0].keys() - _stacked(states[0]).keys()
    return tree.rebuild(states[0], joined | {path: named[0][path] for path in shared})


def unstack(states: Tree) -> list[Tree]:
    """The members of a stack.

    Args:
        states: What :func:`stack` made.

    Returns:
        A pytree for every member.

    Raises:
        ValueError: Its tensors have different numbers of members.
    """
    stacked = _stacked(states)
    count = _members(stacked)
    whole = tree.leaves(states, "a stack")
    return [tree.rebuild(states, whole | {path: t[i] for path, t in stacked.items()}) for i in range(count)]


def diverged(states: Tree) -> list[int]:
    """The members of a stack that hold a NaN or an infinity; the others are not touched by them.

    Args:
        states: What :func:`stack` made, or a vector of losses.

    Returns:
        Their indices.
    """
    stacked = _stacked(states)
    bad = torch.zeros(_members(stacked), dtype=torch.bool)
    for t in stacked.values():
        bad |= (~t.isfinite()).reshape(len(t), -1).any(1).cpu()
    return listed(bad.nonzero().flatten())


def _stacked(states: Tree) -> dict[str, Tensor]:
    of_training = isinstance(states, TrainState)
    return {path: t for path, t in tree.leaves(states, "a stack").items() if not (of_training and _shared(path))}


def _shared(path: str) -> bool:
    return path == "step" or (path.startswith("moments.") and path.endswith(_COUNTS))


def _members(stacked: dict[str, Tensor]) -> int:
    counts = {path: t.shape[0] if t.dim() else 0 for path, t in stacked.items()}
    count = next(iter(counts.values()), 0)
    for path, own in counts.items():
        if own != count or own == 0:
            first = next(iter(counts))
            raise ValueError(
                f"All tensors of a stack have as many members; {first!r} has {count} and {path!r} has {own}. "
                "Make stacks with l0func.stack."
            )
    return count


def check_members(state: TrainState, inputs: tuple[Any, ...], in_dims: Sequence[int | None]) -> None:
    """Refuse a sweep whose parts have different numbers of members.

    Raises:
        ValueError: They have.
    """
    if len(inputs) != len(in_dims):
        raise ValueError(f"in_dims has {len(in_dims)} entries for {len(inputs)} inputs; give one for each.")
    sizes = {"key": state.key.shape[0] if state.key.dim() == 2 else 0}
    for name, part in (("params", state.params), ("gates", state.gates)):
        sizes |= {f"{name}.{path}": t.shape[0] if t.dim() else 0 for path, t in tree.leaves(part, name).items()}
    for i, (value, dim) in enumerate(zip(inputs, in_dims, strict=True)):
        if dim is not None and isinstance(value, Tensor):
            sizes[f"input {i}"] = value.shape[dim] if value.dim() else 0
    if len(set(sizes.values())) > 1 or 0 in sizes.values():
        odd = next((name for name, size in sizes.items() if size != sizes["key"] or size == 0))
        raise ValueError(
            f"A sweep of {sizes['key']} members needs as many of everything that is mapped; {odd} has {sizes[odd]}. Stack "
            "states with l0func.stack; None in in_dims shares an input."
        )
