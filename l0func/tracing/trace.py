"""The result of the analysis: where each parameter makes units, and where it reads them.

Transfer functions write a :class:`Trace`. Compaction makes groups from its ``slices`` and folds
constants with its ``readers``; costs counts multiply-adds from its ``uses`` and ``products``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from l0func.tracing.checks import Check
from l0func.tracing.entries import EntryLabels
from l0func.tracing.joined_dims import JoinedSlices, constant_elsewhere, joined_slices
from l0func.tracing.units import Units, no_units
from l0func.tracing.values import Weight, dimension_of, flat_index
from l0func.tracing.written_norms import WrittenNorm


class Reader(NamedTuple):
    """One product in which a parameter reads units, as a matrix or kernel.

    Attributes:
        path: The parameter's path.
        dim: The parameter's dimension along which it reads the units.
        positions: For each column of ``values`` its index along that dimension.
        values: The activations that the parameter read, shape (rows, columns).
        bias: The path to the bias that is added to the product; None if there is no bias or it is
            not a parameter.
        border: Whether the parameter also reads zeros around the values, like a padded
            convolution.
        steady: Whether a unit's values are constant, for all inputs in all sizes, if the weights
            that make the unit are zero; see :mod:`l0func.tracing.steady`.
    """

    path: str
    dim: int
    positions: Tensor
    values: Tensor
    bias: str | None
    border: bool
    steady: bool


@dataclass
class UnitsAlongDim:
    """The units along one dimension of a parameter; each tensor has that dimension's size.

    Attributes:
        labels: Each slice's unit, or NONE.
        reads: Whether the slice reads its unit: it multiplies the unit's output.
        owns: Whether the slice belongs to its unit: it makes the unit's output.
    """

    labels: Tensor
    reads: Tensor
    owns: Tensor


TracedSlices = dict[tuple[str, int], UnitsAlongDim]
"""``{(parameter path, dimension): its units}``."""


@dataclass
class Trace:
    """A record of one forward pass, written by transfer functions.

    Attributes:
        shapes: ``{path: shape}`` for every parameter and buffer.
        units: All labels, and the units that they belong to.
        slices: The units along every dimension that has some.
        uses: How often each parameter entry is multiplied: a scalar for all entries, or a tensor
            in the parameter's shape.
        products: Multiply-adds between two activations, counted by their two labels.
        normed: For each RMSNorm the labels of its input: it averages over these units. Some of
            them can be removed if they output exact zeros.
        norm_weights: The paths to the scales of these RMSNorms.
        norms: Those among them that compute a statistic by a count of units.
        multipliers: The parameters that multiply units as values, such as learned scales.
        readers: The products in which parameters read units, in order.
        kept_whole: The parameters that must keep all slices, with the reason.
        output_error: Why the output is no evidence for which units can be removed: it holds no
            tensor, or tensors in an object of unknown kind. None if it is evidence.
        pieces: The numbers of equal pieces that forward cuts units into, such as 2 for halves.
        rolled: Labels of units that a roll moves along the dimension in which they lie.
        counted: The multiply-adds in ``uses`` and ``products``.
    """

    shapes: dict[str, tuple[int, ...]]
    units: Units = field(default_factory=Units)
    slices: TracedSlices = field(default_factory=TracedSlices)
    uses: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    products: Counter[tuple[int, int]] = field(default_factory=Counter[tuple[int, int]])
    normed: list[Tensor] = field(default_factory=list[Tensor])
    norm_weights: set[str] = field(default_factory=set[str])
    norms: list[WrittenNorm] = field(default_factory=list[WrittenNorm])
    multipliers: set[str] = field(default_factory=set[str])
    readers: list[Reader] = field(default_factory=list[Reader])
    kept_whole: dict[str, str] = field(default_factory=dict[str, str])
    pieces: set[int] = field(default_factory=set[int])
    rolled: list[Tensor] = field(default_factory=list[Tensor])
    output_error: TypeError | ValueError | None = None
    counted: float = 0.0
    _entries: EntryLabels = field(default_factory=EntryLabels)
    _checks: list[Check] = field(default_factory=list[Check])
    _joined: list[JoinedSlices] = field(default_factory=list[JoinedSlices])
    _begun_norms: list[WrittenNorm] = field(default_factory=list[WrittenNorm])

    def own(self, weight: Weight, dim: int, labels: Tensor, step: int | None) -> None:
        """Record that a weight's slices along one dimension make these units."""
        found = self._find_dimension(weight, dim, labels, False, step)
        if found is not None:
            self._set(*found, labels, reads=False)

    def read(self, weight: Weight, dim: int, labels: Tensor, step: int | None) -> None:
        """Record that a weight's slices along one dimension multiply these units' outputs."""
        found = self._find_dimension(weight, dim, labels, True, step)
        if found is not None:
            self._set(*found, labels, reads=True)

    def keep_whole(self, path: str, reason: str) -> None:
        """Record that this parameter must keep all its slices."""
        self.kept_whole.setdefault(path, reason)

    def elements(self, weight: Weight) -> Tensor:
        """Labels for a weight that is used as a value; every entry is a unit at first."""
        return self._entries.of(weight, self.shapes[weight.path], self.units)

    def check_at_end(self, check: Check) -> None:
        """Run a check when all ties are known."""
        self._checks.append(check)

    def begin_norm(self, norm: WrittenNorm) -> None:
        """Follow a norm that forward writes out; at the end its units stay or are normed."""
        self._begun_norms.append(norm)

    def add_norm(self, norm: WrittenNorm) -> None:
        """Record that an RMSNorm runs over units."""
        self.normed.append(norm.labels)
        self.norm_weights.update(norm.weights)
        self.norms.append(norm)

    def count(self, weight: Weight, uses: float) -> None:
        """Record that each element in this weight is multiplied so many times."""
        self.counted += uses * weight.size
        shape = self.shapes[weight.path]
        known = self.uses.get(weight.path, torch.zeros((), dtype=torch.float64, device="cpu"))
        if weight.size == torch.Size(shape).numel():
            # The weight is the whole parameter, moved about: each entry occurs once.
            self.uses[weight.path] = known + uses
            return
        counts = known.expand(shape).clone()
        index = flat_index(weight, shape).reshape(-1)
        added = torch.full((index.numel(),), float(uses), dtype=torch.float64, device="cpu")
        counts.view(-1).index_add_(0, index, added)
        self.uses[weight.path] = counts

    def count_product(self, labels: tuple[int, int], macs: int) -> None:
        """Record multiply-adds between the units with these two labels."""
        self.counted += macs
        self.products[labels] += macs

    def finish(self, used: set[int]) -> None:
        """Settle the units after the call.

        Args:
            used: The step numbers that the outputs depend on.
        """
        for joined in self._joined:
            self._settle_joined(joined)
        for check in self._checks:
            check.settle(self.units)
        for norm in self._begun_norms:
            self._settle_norm(norm)
        for path, roots in self._entries.roots(self.units):
            self._settle_entries(path, roots)
        for path, reason in self.kept_whole.items():
            for (owner, _), slices in self.slices.items():
                if owner == path:
                    self.units.fix(slices.labels, reason, None)
        self.units.settle(used)

    def _settle_norm(self, norm: WrittenNorm) -> None:
        if norm.keeps_units(self.units):
            self.units.fix(norm.labels, norm.reason, norm.step)
        elif norm.is_applied and norm.is_over_units(self.units):
            self.add_norm(norm)

    def _find_dimension(
        self, weight: Weight, dim: int, labels: Tensor, reads: bool, step: int | None
    ) -> tuple[str, int, Tensor] | None:
        """The parameter's path, its dimension, and the positions along it.

        None if no dimension fits; the units are then fixed, now or at the end.
        """
        if 0 in weight.shape:
            self._keep_units_and_whole(weight.path, labels, "has no entries", step)
            return None
        if weight.shape[dim] == 1:
            reason = f"they are the only unit along a dimension of {weight.path!r}"
            self.units.fix(labels, reason, step)
            return None
        found = dimension_of(weight, dim)
        if found is not None:
            return (weight.path, *found)
        joined = joined_slices(weight, dim, labels, reads, step)
        if joined is None:
            self.keep_reshaped(weight.path, labels, step)
        else:
            self.join(joined)
        return None

    def join(self, joined: JoinedSlices) -> None:
        """Record slices along several dimensions; at the end units lie along one of them."""
        self._joined.append(joined)

    def keep_reshaped(self, path: str, labels: Tensor, step: int | None) -> None:
        """Record that a parameter, and the units along it, stay: no single dimension fits."""
        self._keep_units_and_whole(path, labels, "is reshaped before it is used", step)

    def _keep_units_and_whole(
        self, path: str, labels: Tensor, state: str, step: int | None
    ) -> None:
        reason = f"{path!r} {state}"
        self.units.fix(labels, reason, step)
        self.keep_whole(path, reason)

    def _settle_joined(self, joined: JoinedSlices) -> None:
        """Give the units to the one dimension that they lie along, if there is one."""
        found = joined.along_one(self.units, self.shapes[joined.path])
        if found is None:
            self.keep_reshaped(joined.path, joined.labels, joined.step)
            return
        dim, along = found
        positions = torch.arange(len(along), device="cpu")
        self._set(joined.path, dim, positions, along, joined.reads)

    def _set(self, path: str, dim: int, positions: Tensor, labels: Tensor, reads: bool) -> None:
        """Give labels to slices that read or make these units."""
        slices = self._tie(path, dim, positions, labels)
        kind = slices.reads if reads else slices.owns
        kind[positions] |= labels >= 0

    def _tie(self, path: str, dim: int, positions: Tensor, labels: Tensor) -> UnitsAlongDim:
        """Give labels to slices, and merge them with the units that the slices had."""
        slices = self._along(path, dim)
        before = slices.labels[positions]
        self.units.tie(before, labels)
        slices.labels[positions] = torch.where(labels >= 0, labels, before)
        return slices

    def _along(self, path: str, dim: int) -> UnitsAlongDim:
        if (path, dim) not in self.slices:
            size = self.shapes[path][dim]
            labels = no_units((size,))
            reads, owns = torch.zeros(2, size, dtype=torch.bool, device="cpu")
            self.slices[path, dim] = UnitsAlongDim(labels, reads, owns)
        return self.slices[path, dim]

    def _settle_entries(self, path: str, roots: Tensor) -> None:
        """Find the dimension along which entries used as values belong to units."""
        for dim, size in enumerate(roots.shape):
            along = constant_elsewhere(roots, dim)
            if along is not None and (size > 1 or roots.dim() == 1):
                positions = (along >= 0).nonzero().flatten()
                slices = self._tie(path, dim, positions, along[positions])
                slices.owns[positions] = True
                return
        self.units.fix(roots, f"they lie along no single dimension of {path!r}", None)
        self.keep_whole(path, f"the units of {path!r} lie along no single dimension")
