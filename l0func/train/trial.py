"""A torch optimizer on trial: whether steps repeat from their state, and leave members apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

MakeOptimizer: TypeAlias = Callable[[list[Tensor]], torch.optim.Optimizer]
"""``build(leaves)``: a torch optimizer for these leaves."""

PureStep: TypeAlias = Callable[
    [Mapping[str, Tensor], Mapping[str, Mapping[str, Tensor]], Mapping[str, Tensor]],
    "tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]",
]
"""``update(gradients, moments, leaves)``: a pure step, the new leaves and moments."""

Leaves: TypeAlias = list[Tensor]

# The sizes differ, so that a stack's dimensions are those of no member.
_SHAPES = ((), (3,), (5, 3), (4, 5, 3), (6, 4, 5, 3))

# Small ones first: some optimizers clip or scale what is large. The steps are as many as a probe
# takes, because some do other things after some steps.
_SCALES = (1e-3, 1.0, 1e3)
_STEPS_TRIED = 12

# Members and stacks take other roads through a kernel, and these round in other ways. A
# coupling changes a step by parts of its own size.
_SHARE, _ROUNDING = 1e-3, 1e-12


def check_repeats(kind: str, build: MakeOptimizer, update: PureStep, likeness: Tensor) -> None:
    """Refuse an optimizer whose steps depend on more than gradients, state and settings.

    Args:
        kind: The optimizer's name, for an error.
        build: The optimizer.
        update: One pure step of it.
        likeness: A tensor with the dimensions, dtype and device of the leaves.

    Raises:
        TypeError: Steps do not repeat, or pure steps move leaves elsewhere.
    """
    first = _leaves([likeness.shape], 0, likeness)
    gradients = [
        _leaves([likeness.shape], 1 + i, likeness, _scale(0, i)) for i in range(_STEPS_TRIED)
    ]
    one, other = (_path(build, first, gradients) for _ in range(2))
    if not one or not other:
        return
    if not _are_equal(one, other):
        raise TypeError(
            f"{kind} moves equal leaves by other amounts when the same steps are repeated: it "
            "draws random numbers, or counts in its class, and a resumed training would not go on "
            "bit for bit. Use an optimizer whose step depends on gradients, state and settings "
            "alone, such as torch.optim.SGD; noise n on a gradient is (n * w).sum() in the loss, "
            "with n from l0func.random.normal(key, w.shape)."
        )
    pure = _pure_path(update, first, gradients)
    if not pure or not _are_equal(one, pure):
        raise TypeError(
            f"{kind} keeps something outside of its state for each leaf, such as a generator or a "
            "list in an attribute, and a pure step makes its optimizer anew: it would be lost. "
            "Use an optimizer that keeps all of its state by leaf, such as torch.optim.Adam."
        )


def keeps_members_apart(build: MakeOptimizer) -> bool | None:
    """Whether an optimizer moves stacked leaves as it moves each member's alone.

    Returns:
        None if no leaf of the trial can be moved here, as with an optimizer that needs a GPU.
    """
    together = _apart(build, _SHAPES)
    if together is not None:
        return together
    # Some take leaves of some ranks only.
    found = [_apart(build, (shape,)) for shape in _SHAPES]
    known = [apart for apart in found if apart is not None]
    return all(known) if known else None


def _apart(build: MakeOptimizer, shapes: Sequence[tuple[int, ...]]) -> bool | None:
    like = torch.zeros((), dtype=torch.float64, device="cpu")
    firsts = [_leaves(shapes, 100 * member, like) for member in range(2)]
    series = [
        [
            _leaves(shapes, 100 * member + 1 + i, like, _scale(member, i))
            for i in range(_STEPS_TRIED)
        ]
        for member in range(2)
    ]
    alone = [_path(build, *both) for both in zip(firsts, series, strict=True)]
    if not all(alone):
        return None
    gradients = [_stack_of(ones) for ones in zip(*series, strict=True)]
    stacked = _path(build, _stack_of(firsts), gradients)
    if not stacked:
        return False
    return all(
        _moves_alike(alone[member], [[t[member] for t in leaves] for leaves in stacked])
        for member in range(2)
    )


def _scale(member: int, step: int) -> float:
    """The size of a member's gradients in a step: those of two members differ."""
    return _SCALES[(step + member * (1 + step // len(_SCALES) % 2)) % len(_SCALES)]


def _leaves(
    shapes: Sequence[tuple[int, ...]], seed: int, like: Tensor, scale: float = 1.0
) -> Leaves:
    """Random numbers of both signs, from a generator of their own."""
    generator = torch.Generator("cpu").manual_seed(seed)
    found: Leaves = []
    for shape in shapes:
        numbers = torch.randn(
            shape, generator=generator, dtype=torch.float64, device=generator.device
        )
        found.append((scale * numbers).to(like))
    return found


def _stack_of(members: Sequence[Leaves]) -> Leaves:
    return [torch.stack(own) for own in zip(*members, strict=True)]


def _path(build: MakeOptimizer, first: Leaves, gradients: Sequence[Leaves]) -> list[Leaves]:
    """The leaves before a first and after each step; empty where one fails."""
    leaves = [t.clone() for t in first]
    found = [first]
    try:
        torch_optimizer = build(leaves)
        for slopes in gradients:
            for leaf, slope in zip(leaves, slopes, strict=True):
                leaf.grad = slope.clone()
            torch_optimizer.step()
            found.append([t.detach().clone() for t in leaves])
    except Exception:
        # Code of an unknown optimizer may raise anything, on a device or leaf that it is not for.
        return []
    return found


def _pure_path(update: PureStep, first: Leaves, gradients: Sequence[Leaves]) -> list[Leaves]:
    """The same, by pure steps."""
    leaves, found = first, [first]
    moments: dict[str, dict[str, Tensor]] = {str(i): {} for i in range(len(first))}
    try:
        for slopes in gradients:
            moved, moments = update(_numbered_leaves(slopes), moments, _numbered_leaves(leaves))
            leaves = list(moved.values())
            found.append(leaves)
    except Exception:
        # An optimizer may look for what an earlier step left in it.
        return []
    return found


def _numbered_leaves(leaves: Leaves) -> dict[str, Tensor]:
    return {str(i): t for i, t in enumerate(leaves)}


def _are_equal(one: list[Leaves], other: list[Leaves]) -> bool:
    """Whether two paths are the same, bit for bit, up to NaN."""
    for ours, theirs in zip(one, other, strict=True):
        for t, same in zip(ours, theirs, strict=True):
            both_nan = t.isnan() & same.isnan()
            if not bool((both_nan | (t == same)).all()):
                return False
    return True


def _moves_alike(alone: list[Leaves], stacked: list[Leaves]) -> bool:
    """Whether each step moves a member's leaves the same way, alone and in a stack."""
    for i in range(1, len(alone)):
        for k, after in enumerate(alone[i]):
            before, others = alone[i - 1][k], (stacked[i - 1][k], stacked[i][k])
            move, other = after - before, others[1] - others[0]
            allowed = _SHARE * move.abs().max() + _ROUNDING * before.abs().max()
            is_off = (move - other).abs() > allowed
            if bool(is_off.any()) or not torch.equal(move.isfinite(), other.isfinite()):
                return False
    return True
