"""The numbers of units that a smaller state keeps in each group, solved from its shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from l0func.compaction.fold import unit_numbers
from l0func.spec.plan import GateSpec
from l0func.spec.rules import Shape


class _Loss(NamedTuple):
    """The slices that a tensor loses along one dimension: so many for each closed unit.

    Attributes:
        path: The tensor's path.
        dim: The dimension.
        lost: The number of lost slices.
        each: ``{group: slices of one unit}``.
    """

    path: str
    dim: int
    lost: int
    each: Counter[str]

    def open_groups(self, known: Mapping[str, int]) -> list[str]:
        return [group for group in self.each if group not in known]

    def by_known(self, known: Mapping[str, int]) -> int:
        return sum(each * known[group] for group, each in self.each.items() if group in known)


def open_units(
    spec: GateSpec, tensors: Mapping[str, Tensor], after: Mapping[str, Shape]
) -> dict[str, Tensor]:
    """For each group a bool vector: True for as many units as the state keeps, the first ones.

    Args:
        spec: A gate spec with a group for all units.
        tensors: The module's tensors.
        after: The state's shapes, with the same paths and numbers of dimensions.

    Raises:
        ValueError: The shapes fit no numbers of units.
    """
    sizes = {gate.name: gate.size for gate in spec.gates}
    losses = _losses(spec, tensors, after)
    closed = _closed_units(losses, sizes)
    for loss in losses:
        if loss.by_known(closed) != loss.lost:
            raise _no_removal(loss, tensors, after)
    opens: dict[str, Tensor] = {}
    for group, size in sizes.items():
        opens[group] = torch.arange(size, device="cpu") < size - closed[group]
    return opens


def _losses(
    spec: GateSpec, tensors: Mapping[str, Tensor], after: Mapping[str, Shape]
) -> list[_Loss]:
    each: dict[tuple[str, int], Counter[str]] = {}
    for path, tensor in tensors.items():
        for dim in range(tensor.dim()):
            each[path, dim] = Counter()
    for plan in (*spec.parameters, *spec.buffers):
        for binding in plan.bindings:
            numbers, dim = unit_numbers(binding.rule, tensors[plan.path])
            each[plan.path, dim][binding.gate] += int((numbers == 0).sum())
    losses: list[_Loss] = []
    for (path, dim), of_groups in each.items():
        if not after[path][dim]:
            # A layer that became a constant; the tensors that made its inputs tell.
            continue
        lost = tensors[path].shape[dim] - after[path][dim]
        losses.append(_Loss(path, dim, lost, of_groups))
    return losses


def _closed_units(losses: list[_Loss], sizes: Mapping[str, int]) -> dict[str, int]:
    """The numbers of closed units; a group that no equation settles is taken as open."""
    closed: dict[str, int] = {}
    waiting = list(losses)
    while waiting:
        ready = [loss for loss in waiting if len(loss.open_groups(closed)) <= 1]
        if not ready:
            break
        for loss in ready:
            for group in loss.open_groups(closed):
                closed[group] = (loss.lost - loss.by_known(closed)) // loss.each[group]
        waiting = [loss for loss in waiting if loss.open_groups(closed)]
    return {group: min(max(closed.get(group, 0), 0), size) for group, size in sizes.items()}


def _no_removal(
    loss: _Loss, tensors: Mapping[str, Tensor], after: Mapping[str, Shape]
) -> ValueError:
    own = tuple(tensors[loss.path].shape)
    groups = ", ".join(map(repr, loss.each)) or "no group"
    return ValueError(
        f"The state has {loss.path!r} in shape {after[loss.path]}, and the module in {own}: no "
        f"removal of units leaves that along dimension {loss.dim}. Units of {groups} lie along "
        "it, and their other tensors keep other numbers of them."
    )
