"""Units of a module, as sets of labels that must stay or go together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l0func.internal.untyped import loose, untyped

NONE = -1
"""The label of an element that belongs to no unit: a value that forward made by itself, of
whatever size it took.
"""


class Units:
    """Disjoint sets of labels, some of which are fixed: they cannot be removed, and there is a
    reason.

    ``step`` is the number of the operation that is being followed, or -1: an average over
    attention heads that nobody reads must not keep the heads.
    """

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reasons: dict[int, str] = {}
        self._open: list[tuple[int, Tensor, str]] = []
        self.step = -1

    def fresh(self, count: int) -> Tensor:
        """New labels, each a unit of its own; int64, shape ``(count,)``."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return torch.arange(start, start + count)

    def fixed(self, count: int, reason: str) -> Tensor:
        """New labels of one unit that cannot be removed."""
        labels = self.fresh(1)
        self._settle(labels, reason)
        return labels.expand(count)

    def fix(self, labels: Tensor, reason: str) -> None:
        """Say of the units of these labels that they cannot be removed, and why, if what this step
        computes is used.
        """
        self._open.append((self.step, labels, reason))

    def settle(self, used: set[int]) -> None:
        """Fix what steps that are used asked for."""
        for step, labels, reason in self._open:
            if step < 0 or step in used:
                self._settle(labels, reason)
        self._open.clear()

    def _settle(self, labels: Tensor, reason: str) -> None:
        for label in _distinct(labels):
            self._reasons.setdefault(self.root(label), reason)

    def tie(self, a: Tensor, b: Tensor) -> None:
        """Make one unit of every pair of labels at the same place of two tensors that broadcast."""
        shape: Any = untyped.broadcast_shapes(a.shape, b.shape)
        a, b = _without_repeats(a.expand(shape), b.expand(shape))
        both = (a != b) & (a >= 0) & (b >= 0)
        # A pair as one number: unique numbers are found much faster than unique rows.
        count = len(self._parent)
        for pair in _distinct(a[both] * count + b[both]):
            self._join(self.root(pair // count), self.root(pair % count))

    def root(self, label: int) -> int:
        """The label that stands for the unit of this one."""
        parent, at = self._parent, label
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = parent[at]
        return at

    def roots(self, labels: Tensor) -> Tensor:
        """The same for every label; NONE stays."""
        distinct, place = loose(labels).unique(return_inverse=True)
        found = [label if label < 0 else self.root(label) for label in distinct.tolist()]
        return torch.tensor(found, dtype=torch.int64)[place]

    def reason(self, root: int) -> str | None:
        """Why the unit cannot be removed; None if it can."""
        return self._reasons.get(root)

    def _join(self, a: int, b: int) -> None:
        if a == b:
            return
        # The older label stands for both, so that units keep the order in which forward makes
        # them.
        a, b = min(a, b), max(a, b)
        self._parent[b] = a
        reason = self._reasons.pop(b, None)
        if reason is not None:
            self._reasons.setdefault(a, reason)


def _distinct(labels: Tensor) -> list[int]:
    return [label for label in loose(labels).unique().tolist() if label >= 0]


def _without_repeats(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors of one shape without the repetitions that all of them have in common."""
    for dim in range(tensors[0].dim()):
        if all(t.stride(dim) == 0 for t in tensors) and tensors[0].shape[dim]:
            tensors = tuple(t.narrow(dim, 0, 1) for t in tensors)
    return tensors


def varies(labels: Tensor, dim: int) -> bool:
    """Whether labels differ along a dimension."""
    if labels.shape[dim] <= 1 or labels.stride(dim) == 0:
        return False
    return bool((labels != labels.narrow(dim, 0, 1)).any())
