"""Stacks: many networks as one pytree, with a member dimension in front.

Users stack states for a sweep; a sweep's step checks its stack here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from l0func.internal import names, tree
from l0func.internal.mapped import flatten_mapped
from l0func.internal.tree import Tree, TreeT
from l0func.internal.untyped import listed
from l0func.internal.whole import check_whole
from l0func.train.state import AnyState, TrainState

_MOMENTS_PREFIX = "moments."

# Names of moments that torch's optimizers count for all entries together.
_COUNTS = (".step", ".mu_product", ".eta", ".mu")


def stack(states: Iterable[TreeT]) -> TreeT:
    """Stack pytrees with the same structure: each tensor gets a member dimension in front.

    Args:
        states: The members, such as ``[init(key, params, gates, buffers) for key in keys]``.
            Stacked TrainStates share ``step`` and the optimizers' counts.

    Returns:
        One pytree.

    Raises:
        TypeError: ``states`` is one pytree, and no sequence of them.
        ValueError: There are no members; their names, shapes or dtypes differ; or training states
            are at different steps.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> l0.stack([{"w": torch.zeros(2)}, {"w": torch.ones(2)}])["w"]
        tensor([[0., 0.],
                [1., 1.]])
    """
    listed_states = _members(states)
    if not listed_states:
        raise ValueError("A stack has at least one member; got none.")
    check_whole("stack", states=listed_states)
    members = [tree.leaves(state, "a member") for state in listed_states]
    _check_same_structure(members)
    stacked = _stacked(listed_states[0])
    whole: dict[str, Tensor] = {}
    for path in members[0]:
        values = [member[path] for member in members]
        if path in stacked:
            whole[path] = torch.stack(values)
        else:
            whole[path] = _common(path, values)
    return tree.rebuild(listed_states[0], whole)


def _members(states: Any) -> list[Any]:
    """The members to stack, as a list.

    Raises:
        TypeError: They are one pytree.
    """
    kind = type(states).__name__
    is_one = isinstance(states, Mapping | Tensor | TrainState)
    if is_one or not hasattr(states, "__iter__"):
        raise TypeError(
            "stack takes a list of members, such as l0func.stack([state] * members); got one "
            f"{kind}."
        )
    return list(states)


def _check_same_structure(members: list[dict[str, Tensor]]) -> None:
    first = members[0]
    for i, member in enumerate(members):
        names.check_names(member, first, f"member {i} of the stack", "member 0")
        for path, t in member.items():
            own = first[path]
            _check_same("shapes", path, i, (tuple(own.shape), tuple(t.shape)))
            _check_same("dtypes", path, i, (own.dtype, t.dtype))


def _check_same(kind: str, path: str, i: int, values: tuple[Any, Any]) -> None:
    if values[0] != values[1]:
        raise ValueError(
            f"Members of a stack have the same {kind}; {path!r} is {values[0]} in member 0 and "
            f"{values[1]} in member {i}."
        )


def _common(path: str, values: list[Tensor]) -> Tensor:
    """Copy the value that all members share."""
    for i, value in enumerate(values):
        if not torch.equal(value, values[0]):
            raise ValueError(
                f"Members of a stack are at the same step; {path!r} is {float(values[0]):g} in "
                f"member 0 and {float(value):g} in member {i}. Train them to the same step, or "
                "run them apart."
            )
    return values[0].clone()


def unstack(states: TreeT) -> list[TreeT]:
    """Take a stack apart into its members.

    Args:
        states: A stack from :func:`stack`.

    Returns:
        A pytree for each member.

    Raises:
        ValueError: The tensors have different member counts, or ``states`` is the training state
            of one network.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> l0.unstack({"w": torch.tensor([[0.0, 0.0], [1.0, 1.0]])})[1]
        {'w': tensor([1., 1.])}
    """
    check_whole("unstack", states=states)
    _check_is_stack("unstack", states)
    stacked = _stacked(states)
    return [_member(states, stacked, i) for i in range(_member_count(stacked))]


def _member(states: TreeT, stacked: dict[str, Tensor], i: int) -> TreeT:
    whole = tree.leaves(states, "a stack")
    whole |= {path: t[i] for path, t in stacked.items()}
    # Copies: a step with donate=True writes into the member that it is given.
    copies = {path: t.clone() for path, t in whole.items()}
    return tree.rebuild(states, copies)


def diverged(states: Tree) -> list[int]:
    """Find the members that hold a NaN or an infinity; they do not touch other members.

    Args:
        states: A stack from :func:`stack`, or a tensor with the members along its first dimension,
            such as a vector with their losses.

    Returns:
        Their indices in the stack, in ascending order.

    Raises:
        TypeError: ``states`` is no stack, and no tensor.
        ValueError: There are no members, their counts differ, a tensor is a DTensor, or ``states``
            is the training state of one network.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> states = l0.stack([{"w": torch.ones(2)}, {"w": torch.tensor([torch.nan, 1.0])}])
        >>> l0.diverged(states)
        [1]
        >>> l0.diverged(torch.tensor([torch.inf, 0.3, torch.nan]))  # the members' losses
        [0, 2]
    """
    check_whole("diverged", states=states)
    _check_is_stack("diverged", states)
    stacked = {"states": states} if isinstance(states, Tensor) else _stacked(states)
    bad = torch.zeros(_member_count(stacked), dtype=torch.bool, device="cpu")
    for t in stacked.values():
        finite = t.isfinite().reshape(len(t), -1).all(1)
        bad |= ~finite.cpu()
    return listed(bad.nonzero().flatten())


def _check_is_stack(caller: str, states: Tree) -> None:
    """Refuse the training state of one network: its tensors may all happen to be as long.

    Raises:
        ValueError: The state has one key.
    """
    if isinstance(states, TrainState) and states.key.dim() < 2:
        raise ValueError(
            f"{caller} takes a stack of states, and this TrainState is that of one network: its "
            f"key has shape {tuple(states.key.shape)}. Make stacks with l0func.stack."
        )


def _stacked(states: Tree) -> dict[str, Tensor]:
    """The tensors that have, or in one member will get, a member dimension."""
    named = tree.leaves(states, "a stack")
    if not isinstance(states, TrainState):
        return named
    return {path: t for path, t in named.items() if not _is_shared(path, named)}


def _is_shared(path: str, named: Mapping[str, Tensor]) -> bool:
    """Whether stacked training states share the tensor under a path."""
    if path == "step":
        return True
    if not path.startswith(_MOMENTS_PREFIX):
        return False
    return path.endswith(_COUNTS) or _is_number(path, named)


def _is_number(path: str, named: Mapping[str, Tensor]) -> bool:
    """Whether a moment is one number for all entries in its leaf.

    Such a number is 0-d. All moments of a 0-d leaf are 0-d too, but only numbers have another
    dtype than the leaf.
    """
    moment = named[path]
    if moment.dim() > 0:
        return False
    leaf = named.get(path.removeprefix(_MOMENTS_PREFIX).rpartition(".")[0])
    return leaf is None or leaf.dim() > 0 or leaf.dtype != moment.dtype


def _member_count(stacked: dict[str, Tensor]) -> int:
    """The member count of a stack; all tensors must agree on it."""
    for path, t in stacked.items():
        if t.dim() == 0:
            raise ValueError(
                f"{path!r} is one number, of no stack: in a stack every tensor has its members "
                "along the first dimension. Make stacks with l0func.stack."
            )
    lengths = {path: _length(t) for path, t in stacked.items()}
    first, count = next(iter(lengths.items()), ("", 0))
    for path, length in lengths.items():
        if length != count or length == 0:
            raise ValueError(
                f"All tensors of a stack have as many members; {first!r} has {count} and {path!r} "
                f"has {length}. Make stacks with l0func.stack."
            )
    return count


def _length(t: Tensor) -> int:
    return t.shape[0] if t.dim() else 0


def check_members(state: AnyState, inputs: tuple[Any, ...], in_dims: Sequence[int | None]) -> None:
    """Refuse a sweep with different member counts in its state and its inputs.

    Raises:
        ValueError: The counts differ, or are 0; or ``in_dims`` has another length than
            ``inputs``.
    """
    if len(inputs) != len(in_dims):
        raise ValueError(
            f"in_dims has {len(in_dims)} entries for {len(inputs)} inputs; give one for each."
        )
    if state.key.dim() != 2:
        raise ValueError(
            "A step with in_dims takes a stack of states, and the state is that of one network: a "
            "sweep of 0 members. Stack one for each member, such as "
            "l0func.stack([state] * members)."
        )
    members = state.key.shape[0]
    for name, length in _member_counts(state, members, inputs, in_dims):
        if length != members or length == 0:
            raise ValueError(
                f"A sweep of {members} members needs as many of everything that is mapped; {name} "
                f"has {length}. Stack states with l0func.stack; None in in_dims shares an input."
            )


def _member_counts(
    state: AnyState, members: int, inputs: tuple[Any, ...], in_dims: Sequence[int | None]
) -> Iterator[tuple[str, int]]:
    """Name and member count for everything that a sweep maps."""
    yield "key", members
    for path, t in _stacked(state).items():
        if path != "key":
            yield path, _length(t)
    for i, (value, dims) in enumerate(zip(inputs, in_dims, strict=True)):
        for x, dim in flatten_mapped(value, dims, f"in_dims[{i}]").mapped():
            yield f"input {i}", x.shape[dim]
