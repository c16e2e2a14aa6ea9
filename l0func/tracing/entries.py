"""Labels for parameters that forward uses as values, such as a learned scale: ``x * scale``.

The weight in a matrix product has units along its dimensions. A parameter that is used as a value
has one unit for every entry at first. A pointwise operation ties these to the units of its other
operand. Only :class:`l0func.tracing.trace.Trace` uses this file.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from l0func.tracing.units import NONE, Units
from l0func.tracing.values import Weight, flat_index


class EntryLabels:
    """For each parameter that is used as a value: a label for every entry."""

    def __init__(self) -> None:
        self._first: dict[str, int] = {}
        self._used: dict[str, Tensor] = {}

    def of(self, weight: Weight, shape: tuple[int, ...], units: Units) -> Tensor:
        """Labels for a weight's elements, given its parameter's shape."""
        if weight.path not in self._first:
            self._begin(weight.path, shape, units)
        flat = flat_index(weight, shape)
        used = self._used[weight.path].view(-1)
        used[flat.reshape(-1)] = True
        return flat + self._first[weight.path]

    def roots(self, units: Units) -> Iterator[tuple[str, Tensor]]:
        """Pairs (path, roots): each such parameter's units, NONE where an entry is not used."""
        for path, start in self._first.items():
            used = self._used[path]
            labels = torch.arange(used.numel(), device="cpu").reshape(used.shape) + start
            yield path, torch.where(used, units.roots(labels), NONE)

    def _begin(self, path: str, shape: tuple[int, ...], units: Units) -> None:
        labels = units.fresh(torch.Size(shape).numel())
        self._first[path] = int(labels[0]) if labels.numel() else 0
        self._used[path] = torch.zeros(shape, dtype=torch.bool, device="cpu")
