"""Units and their labels: tensor elements that must be kept or removed together.

A unit is the smallest thing that can be removed from a network: a hidden unit, a channel or an
attention head. A label is an integer on a tensor element; equal labels mean one unit. During a
trace, different labels often turn out to mean one unit, so :class:`Units` is a union-find
structure over labels. All other files in this folder use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from l0func.internal.shapes import joint_shape
from l0func.internal.untyped import loose

NONE = -1
"""The label for elements without a unit: constants that forward creates in any size it needs."""

INPUT = 0
"""The label for all elements of all inputs."""


OUTPUT_REASON = "they are an output of the module"
"""Why the units that a module returns are kept."""


class _Request(NamedTuple):
    """A request to keep units; it counts if the outputs depend on the step that asks."""

    step: int | None
    labels: Tensor
    reason: str


class Units:
    """Disjoint sets of labels, one set for each unit; some units are fixed, with a reason.

    A fixed unit cannot be removed. Transfer functions ask to fix units while the module runs
    (:meth:`fix`). At the end :meth:`settle` grants the requests from steps that the outputs
    depend on: if nobody reads an average over attention heads, it must not keep the heads.
    """

    def __init__(self) -> None:
        self._parent: list[int] = [INPUT]
        self._reasons: dict[int, str] = {INPUT: "they are joined with an input of the module"}
        self._requests: list[_Request] = []

    def fresh(self, count: int) -> Tensor:
        """New labels, each for a new unit; int64, shape ``(count,)``."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return torch.arange(start, start + count, device="cpu")

    def fixed(self, reason: str) -> Tensor:
        """A new label, shape ``(1,)``, for a unit that cannot be removed."""
        label = self.fresh(1)
        self._give_reason(label, reason)
        return label

    def fix(self, labels: Tensor, reason: str, step: int | None) -> None:
        """Ask to fix the units that these labels mean.

        Args:
            labels: Labels in any shape.
            reason: Why the units cannot be removed, in words that start with "they".
            step: The step that asks, by number: the request counts only if an output depends on
                that step. None: it always counts.
        """
        self._requests.append(_Request(step, labels, reason))

    def settle(self, used: set[int]) -> None:
        """Grant the requests from these steps, and those without a step; drop the others."""
        for request in self._requests:
            if request.step is None or request.step in used:
                self._give_reason(request.labels, request.reason)
        self._requests.clear()

    def tie(self, a: Tensor, b: Tensor) -> None:
        """Merge units: two tensors broadcast, and labels at the same place become one unit."""
        shape = joint_shape(a.shape, b.shape)
        a, b = _pair_without_repeats(a.expand(shape), b.expand(shape))
        both = (a != b) & (a >= 0) & (b >= 0)
        # A pair as one number: unique numbers are found much faster than unique rows.
        count = len(self._parent)
        pairs = a[both] * count + b[both]
        for pair in _distinct(pairs):
            first, second = self.root(pair // count), self.root(pair % count)
            if first != second:
                self._join(first, second)

    def root(self, label: int) -> int:
        """The label that represents this label's unit."""
        parent, at = self._parent, label
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = parent[at]
        return at

    def roots(self, labels: Tensor) -> Tensor:
        """Every label's root, in the shape of ``labels``; NONE stays NONE."""
        distinct, place = loose(labels).unique(return_inverse=True)
        found = [label if label < 0 else self.root(label) for label in distinct.tolist()]
        return torch.tensor(found, dtype=torch.int64, device="cpu")[place]

    def reason(self, root: int) -> str | None:
        """Why the unit with this root cannot be removed; None if it can."""
        return self._reasons.get(root)

    def _give_reason(self, labels: Tensor, reason: str) -> None:
        for label in _distinct(labels):
            self._note(self.root(label), reason)

    def _note(self, root: int, reason: str) -> None:
        # The deepest reason: an output can be read by one more layer, and then another one, such
        # as a norm over the units, still keeps them.
        if self._reasons.get(root, OUTPUT_REASON).startswith(OUTPUT_REASON):
            self._reasons[root] = reason

    def _join(self, a: int, b: int) -> None:
        # The older label becomes the root, so that units keep the order in which forward makes
        # them.
        a, b = min(a, b), max(a, b)
        self._parent[b] = a
        reason = self._reasons.pop(b, None)
        if reason is not None:
            self._note(a, reason)


def _distinct(labels: Tensor) -> list[int]:
    return [label for label in loose(labels).unique().tolist() if label >= 0]


def _pair_without_repeats(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two equally shaped tensors, cut to one index along dimensions that both only repeat."""
    for dim in range(a.dim()):
        if a.shape[dim] and a.stride(dim) == b.stride(dim) == 0:
            a = a.narrow(dim, 0, 1)
            b = b.narrow(dim, 0, 1)
    return a, b


def has_units(labels: Tensor) -> bool:
    """Whether any element belongs to a unit."""
    return bool((labels >= 0).any())


def varies(labels: Tensor, dim: int) -> bool:
    """Whether labels differ along a dimension."""
    if labels.shape[dim] <= 1 or labels.stride(dim) == 0:
        return False
    return bool((labels != labels.narrow(dim, 0, 1)).any())


def runs_over_units(units: Units, labels: Tensor, dims: Sequence[int]) -> bool:
    """Whether an operation over these dimensions runs over several units."""
    roots = units.roots(without_repeats(labels))
    return any(varies(roots, d) for d in dims)


def without_repeats(labels: Tensor) -> Tensor:
    """The labels, cut to one index along dimensions that only repeat them."""
    for dim in range(labels.dim()):
        if labels.shape[dim] and labels.stride(dim) == 0:
            labels = labels.narrow(dim, 0, 1)
    return labels


def largest(labels: Tensor, dims: list[int], keepdim: bool = False) -> Tensor:
    """The largest label along dimensions; NONE if one of them is empty."""
    if all(labels.shape[d] for d in dims):
        return labels.amax(dims, keepdim=keepdim)
    return no_units(labels.sum(dims, keepdim=keepdim).shape)


def no_units(shape: tuple[int, ...]) -> Tensor:
    """Labels for a tensor without units: NONE everywhere, in fresh memory."""
    return torch.full(shape, NONE, device="cpu")
