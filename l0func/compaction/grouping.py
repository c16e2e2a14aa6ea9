"""From a trace to groups: units with slices of the same kind side by side are one vector of gates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from l0func.internal.untyped import listed, loose
from l0func.spec.build import group
from l0func.spec.plan import Group
from l0func.spec.rules import Rule, axis, blocks, tiles
from l0func.tracing.trace import Trace


class SlicePlace(NamedTuple):
    """A dimension of a tensor in which units have slices, whether they are read there, and whether
    a gate multiplies them.
    """

    path: str
    dim: int
    reads: bool
    multiplies: bool


@dataclass(frozen=True)
class UnitVector:
    """Units in a row.

    Attributes:
        name: Of the group: the module, or the parameter, that makes them.
        count: Number of units.
        sizes: Numbers of slices in a row that one unit has somewhere.
        multiplies: The rules of the slices that a gate scales: those that read them; under an
            RMSNorm those that make them.
        owns: The rules of the other slices.
        maker: The parameter that makes them first.
        normed: Whether an RMSNorm runs over them, which reads them without a slice.
    """

    name: str
    count: int
    sizes: frozenset[int]
    multiplies: dict[str, list[Rule]]
    owns: dict[str, list[Rule]]
    normed: bool
    maker: str

    def group(self, attrs: dict[str, int]) -> Group:
        """As a group, with how much of an attribute each unit stands for."""
        return group(dict(self.multiplies), dict(self.owns), attrs)

    def paths(self) -> set[str]:
        """All tensors with slices of the units."""
        return {*self.multiplies, *self.owns}


_Slices = dict[SlicePlace, list[int]]


def unit_vectors(trace: Trace) -> tuple[list[UnitVector], dict[str, str]]:
    """The vectors of units that can be removed, and for those that cannot, by what makes them,
    why.
    """
    refused: dict[str, str] = {}
    vectors: dict[tuple[tuple[SlicePlace, int], ...], list[_Slices]] = {}
    for root, slices in sorted(_by_unit(trace).items()):
        reason = trace.units.reason(root) or _unfit(slices)
        if reason is None:
            vectors.setdefault(tuple((place, len(at)) for place, at in slices.items()), []).append(
                slices
            )
        elif (maker := _maker(slices)) is not None:
            refused.setdefault(maker, reason)
    found: list[UnitVector] = []
    for units in vectors.values():
        for run in _equal_steps(units):
            _add(run, trace, found, refused)
    for path, reason in trace.kept_whole.items():
        refused.setdefault(path, reason)
    return _named(found), refused


def _by_unit(trace: Trace) -> dict[int, _Slices]:
    units: dict[int, _Slices] = {}
    normed = _normed(trace)
    for (path, dim), slices in trace.slices.items():
        flags = (
            listed(flag) for flag in (trace.units.roots(slices.labels), slices.reads, slices.owns)
        )
        for position, (root, reads, owns) in enumerate(zip(*flags, strict=True)):
            if root >= 0:
                # A closed unit under an RMSNorm must be exactly zero where it is made, or the
                # others are scaled by it.
                multiplies = (
                    bool(owns) and path not in trace.norm_weights
                    if root in normed
                    else bool(reads)
                )
                units.setdefault(root, {}).setdefault(
                    SlicePlace(path, dim, bool(reads), multiplies), []
                ).append(position)
    return units


def _normed(trace: Trace) -> set[int]:
    return {
        root
        for labels in trace.normed
        for root in listed(loose(trace.units.roots(labels)).unique())
    }


def _maker(slices: _Slices) -> str | None:
    return next((place.path for place in slices if not place.reads), None)


def _unfit(slices: _Slices) -> str | None:
    if not any(place.reads for place in slices):
        return "nothing that has parameters reads them"
    return None if _maker(slices) is not None else "nothing that has parameters makes them"


def _equal_steps(units: list[_Slices]) -> Iterator[list[_Slices]]:
    """Units whose slices advance in equal steps."""
    run: list[_Slices] = []
    step: Tensor | None = None
    for unit in units:
        if run:
            this = _positions(unit) - _positions(run[-1])
            if step is not None and not torch.equal(this, step):
                yield run
                run, this = [], None
            step = this
        run.append(unit)
    yield run


def _positions(unit: _Slices) -> Tensor:
    return torch.tensor([position for at in unit.values() for position in at])


def _add(
    run: list[_Slices], trace: Trace, found: list[UnitVector], refused: dict[str, str]
) -> None:
    maker = _maker(run[0])
    assert maker is not None
    if len(run) == 1:
        refused.setdefault(
            maker, "they all go together, as one unit: without it nothing would be left"
        )
        return
    multiplies: dict[str, list[Rule]] = {}
    owns: dict[str, list[Rule]] = {}
    sizes: set[int] = set()
    for place in run[0]:
        rules = _rules_for(
            torch.tensor([unit[place] for unit in run]),
            place.dim,
            trace.shapes[place.path][place.dim],
        )
        if rules is None:
            refused.setdefault(
                maker, f"their slices of {place.path!r} are in an order that no rule has"
            )
            return
        (multiplies if place.multiplies else owns).setdefault(place.path, []).extend(rules)
        sizes |= {len(run[0][place]), *(rule.size for rule in rules if isinstance(rule, blocks))}
    normed = any(place.path in trace.norm_weights for place in run[0])
    found.append(UnitVector(maker, len(run), frozenset(sizes), multiplies, owns, normed, maker))


def _rules_for(positions: Tensor, dim: int, size: int) -> list[Rule] | None:
    """The rules that put unit i on ``positions[i]``, shape (units, slices of one)."""
    units, each = positions.shape
    numbers = torch.arange(units)[:, None]
    if (
        each > 1
        and units * each == size
        and torch.equal(positions, numbers + units * torch.arange(each))
    ):
        return [tiles(dim, each)]
    rules: list[Rule] = []
    column = 0
    for start, length in _lengths(listed(positions[0])):
        if not torch.equal(
            positions[:, column : column + length], start + numbers * length + torch.arange(length)
        ):
            return None
        stop = start + units * length
        end = None if stop == size else stop
        rules.append(axis(dim, start, end) if length == 1 else blocks(dim, length, start, end))
        column += length
    return rules


def _lengths(positions: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Starts and lengths of runs of consecutive numbers."""
    start, length = -1, 0
    for position in positions:
        if position == start + length and length:
            length += 1
            continue
        if length:
            yield start, length
        start, length = position, 1
    yield start, length


def _named(found: list[UnitVector]) -> list[UnitVector]:
    """By the module that makes the units, where that is one name for one vector."""
    modules = [f.name.rpartition(".")[0] for f in found]
    named: list[UnitVector] = []
    for f, module in zip(found, modules, strict=True):
        name = module if module and modules.count(module) == 1 else f.name
        before = sum(other.name == f.name for other in found[: len(named)])
        named.append(replace(f, name=f"{name}:{before + 1}" if before else name))
    return named
