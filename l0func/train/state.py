"""The state of training, and stacks of states: many networks as one pytree, with a dimension of
members in front.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l0func.internal import names, tree
from l0func.internal.mapped import flatten_mapped
from l0func.internal.tree import Tree
from l0func.internal.untyped import listed
from l0func.train.lagrangian import LagrangianState
from l0func.train.optimizer import Moments

# What torch's optimizers count for all entries together.
_COUNTS = (".step", ".mu_product", ".eta", ".mu")


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
        states: Such as ``[init(key, params, gates, buffers) for key in keys]``. Of a TrainState
            ``step``, and what optimizers count, stay one for all.

    Returns:
        One pytree.

    Raises:
        ValueError: There are none; their names, shapes or dtypes differ; or training states are at
            different steps.
    """
    if not states:
        raise ValueError("A stack has at least one member; got none.")
    named = [tree.leaves(state, "a member") for state in states]
    for i, other in enumerate(named):
        names.check_names(other, named[0], f"The stack, whose member {i} is another,")
        for path, t in other.items():
            _check_alike(path, named[0][path], t, i)
    stacked = _stacked(states[0]).keys()
    shared = {path: t.clone() for path, t in named[0].items() if path not in stacked}
    for path, t in shared.items():
        for i, other in enumerate(named):
            if not torch.equal(other[path], t):
                raise ValueError(
                    f"Members of a stack are at the same step; {path!r} is {float(t):g} in member "
                    f"0 and {float(other[path]):g} "
                    f"in member {i}. Train them to the same step, or run them apart."
                )
    return tree.rebuild(
        states[0], shared | {path: torch.stack([of[path] for of in named]) for path in stacked}
    )


def _check_alike(path: str, first: Tensor, other: Tensor, i: int) -> None:
    for what, own, its in (
        ("shapes", tuple(first.shape), tuple(other.shape)),
        ("dtypes", first.dtype, other.dtype),
    ):
        if own != its:
            raise ValueError(
                f"Members of a stack have the same {what}; {path!r} is {own} in member 0 and "
                f"{its} in member {i}."
            )


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
    # Copies: a step that is donated a member writes into it.
    members = (
        {path: (t[i] if path in stacked else t).clone() for path, t in whole.items()}
        for i in range(count)
    )
    return [tree.rebuild(states, member) for member in members]


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
    return {
        path: t
        for path, t in tree.leaves(states, "a stack").items()
        if not (of_training and _shared(path))
    }


def _shared(path: str) -> bool:
    return path == "step" or (path.startswith("moments.") and path.endswith(_COUNTS))


def _members(stacked: dict[str, Tensor]) -> int:
    counts = {path: t.shape[0] if t.dim() else 0 for path, t in stacked.items()}
    count = next(iter(counts.values()), 0)
    for path, own in counts.items():
        if own != count or own == 0:
            first = next(iter(counts))
            raise ValueError(
                f"All tensors of a stack have as many members; {first!r} has {count} and {path!r} "
                f"has {own}. "
                "Make stacks with l0func.stack."
            )
    return count


def check_members(
    state: TrainState, inputs: tuple[Any, ...], in_dims: Sequence[int | None]
) -> None:
    """Refuse a sweep whose parts have different numbers of members.

    Raises:
        ValueError: They have.
    """
    if len(inputs) != len(in_dims):
        raise ValueError(
            f"in_dims has {len(in_dims)} entries for {len(inputs)} inputs; give one for each."
        )
    members = state.key.shape[0] if state.key.dim() == 2 else 0
    sizes = {"key": members}
    sizes |= {
        path: t.shape[0] if t.dim() else 0 for path, t in _stacked(state).items() if path != "key"
    }
    for i, (value, dim) in enumerate(zip(inputs, in_dims, strict=True)):
        if dim is None:
            continue
        for x, d in flatten_mapped(value, dim, f"in_dims[{i}]").mapped():
            if sizes.get(f"input {i}", members) == members:
                sizes[f"input {i}"] = x.shape[d]
    if len(set(sizes.values())) > 1 or 0 in sizes.values():
        odd = next((name for name, size in sizes.items() if size != sizes["key"] or size == 0))
        raise ValueError(
            f"A sweep of {sizes['key']} members needs as many of everything that is mapped; {odd} "
            f"has {sizes[odd]}. Stack "
            "states with l0func.stack; None in in_dims shares an input."
        )
