"""One submodule and the slices that its tensors keep: the input to every resizer.

Its methods count the kept slices and refuse cuts that the module cannot take.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from l0func.pure.part import Part

KeptIndices = Mapping[int, Tensor]
"""For each dimension that loses slices a bool vector: True at the indices that are kept."""


@dataclass(frozen=True)
class SubmoduleCut:
    """One submodule and the slices that its tensors keep.

    Attributes:
        path: The module's path.
        part: The module without its tensors.
        tensors: Its own tensors before the cut, by their names in it.
        kept_indices: For each tensor that loses slices: the indices that are kept.
        advice: The end of an error: what to do about a cut that the module cannot take.
    """

    path: str
    part: Part
    tensors: Mapping[str, Tensor]
    kept_indices: Mapping[str, KeptIndices]
    advice: str = "Name what goes together in one group: l0func.unit_groups finds whole groups."

    def has(self, name: str) -> bool:
        """Whether the module has a tensor with this name."""
        return name in self.tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape before the cut."""
        return tuple(self.tensors[name].shape)

    def kept(self, name: str, dim: int) -> Tensor:
        """A bool vector along a dimension: True where the slice is kept."""
        of_tensor = self.kept_indices.get(name, {})
        if dim in of_tensor:
            return of_tensor[dim]
        return torch.ones(self.shape(name)[dim], dtype=torch.bool, device="cpu")

    def kept_count(self, name: str, dim: int) -> int:
        """The number of kept slices along a dimension."""
        return int(self.kept(name, dim).sum())

    def kept_blocks(self, name: str, dim: int, count: int, kind: str) -> Tensor:
        """A bool vector over equal blocks along a dimension: True where the block is kept.

        Args:
            name: The tensor.
            dim: The dimension.
            count: The number of blocks.
            kind: The word for a block in an error.

        Raises:
            ValueError: A block loses some slices and keeps others.
        """
        blocks = self.kept(name, dim).reshape(count, -1)
        if not torch.equal(blocks.any(1), blocks.all(1)):
            raise self.cannot_resize(
                f"{name!r} loses some slices of a {kind} and keeps others; a {kind} goes as a "
                f"whole"
            )
        return blocks.all(1)

    def check_same(self, first: tuple[str, int], *others: tuple[str, int]) -> None:
        """Refuse tensors that lose different slices where the module needs the same.

        Args:
            first: A tensor and a dimension.
            *others: Other tensors and their dimensions; tensors that the module lacks are
                ignored.

        Raises:
            ValueError: They lose different slices.
        """
        for other in others:
            if self.has(other[0]) and not torch.equal(self.kept(*first), self.kept(*other)):
                raise self.cannot_resize(self._difference(first, other))

    def _difference(self, first: tuple[str, int], other: tuple[str, int]) -> str:
        size = self.shape(first[0])[first[1]]
        return (
            f"{first[0]!r} keeps {self.kept_count(*first)} of its {size} slices along dimension "
            f"{first[1]}, and {other[0]!r} keeps {self.kept_count(*other)} along dimension "
            f"{other[1]}, not the same"
        )

    def check_uncut(self, name: str, dim: int, reason: str) -> None:
        """Refuse a loss along a dimension.

        Args:
            name: The tensor; ignored if the module lacks it.
            dim: The dimension.
            reason: Why the dimension cannot lose slices.

        Raises:
            ValueError: The tensor loses slices along this dimension.
        """
        if self.has(name) and not bool(self.kept(name, dim).all()):
            raise self.cannot_resize(f"{name!r} loses slices along dimension {dim}, and {reason}")

    def cannot_resize(self, problem: str) -> ValueError:
        """The error to raise for a cut that this module cannot take."""
        kind = self.part.kind.__name__
        return ValueError(f"{kind} {self.path!r} cannot be made smaller: {problem}. {self.advice}")
