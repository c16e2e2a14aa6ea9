"""The numbers that make up for units lost under an RMSNorm.

Closed units are zero, so a mean of squares over N units is larger by N / N' over the N' that are
left. The factors go to the norm's weight and eps, or to what makes and reads the units. A group
holds them in its ``attrs``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from l0func.compaction.module_numbers import items_in
from l0func.compaction.unit_slices import SlicePlace, UnitSlices
from l0func.internal.untyped import listed
from l0func.pure.part import Part
from l0func.tracing.trace import Trace
from l0func.tracing.units import without_repeats
from l0func.tracing.written_norms import Powers, WrittenNorm

NormScales = dict[str, dict[str, Any]]
"""``{path of a tensor or an attribute: {"power", "of", "dim"} and for a tensor "offset"}``.

The tensor or number is multiplied by (N / N')**power, where N and N' are the sizes of dimension
``dim`` of the tensor ``of`` before and after. A tensor with an offset w becomes
(w + offset) * factor - offset.
"""

# How many levels to search below an attribute for eps.
_EPS_DEPTH = 2


def name_eps(trace: Trace, parts: Mapping[str, Part], own_eps: tuple[type, ...]) -> None:
    """Find the attributes that hold each norm's eps, and note them in the trace.

    Args:
        trace: The trace.
        parts: The submodules, by their paths.
        own_eps: The classes of norms whose resizer scales their weight and eps.
    """
    for norm in trace.norms:
        modules = [path.rpartition(".")[0] for path in norm.weights]
        norm.is_resized = any(issubclass(parts[m].kind, own_eps) for m in modules if m in parts)
        for eps in norm.eps:
            for module in modules:
                norm.eps_paths.setdefault(eps, []).extend(
                    _attributes_near(parts, module, eps.value)
                )


def _attributes_near(parts: Mapping[str, Part], module: str, value: float | None) -> list[str]:
    """The attributes with this value in a module, or in the first module around it."""
    while True:
        found = _attributes_with(parts[module], value) if module in parts else []
        if found or not module:
            return [f"{module}.{name}".strip(".") for name in found]
        module = module.rpartition(".")[0]


def _attributes_with(part: Part, value: float | None) -> list[str]:
    """The float attributes with this value, direct ones if there are any."""
    for depth in range(_EPS_DEPTH + 1):
        names: list[str] = []
        for name, attribute in part.attributes().items():
            for path, number in _floats_in(name, attribute, depth):
                if number == value:
                    names.append(path)
        if names:
            return names
    return []


def _floats_in(name: str, value: Any, depth: int) -> Iterator[tuple[str, float]]:
    if type(value) is float:
        yield name, value
    elif depth:
        for key, item in items_in(value):
            yield from _floats_in(f"{name}.{key}", item, depth - 1)


def scale_choices(run: Sequence[UnitSlices], trace: Trace) -> list[NormScales]:
    """Ways to make up for the loss of some units, likely ones first.

    First the norms' own weights and eps, then what makes and reads the units. A number in forward
    may be read from a size or from an attribute: there is a choice for both.

    Args:
        run: The units.
        trace: The trace that they come from.

    Returns:
        The choices; one that is empty if no norm needs any.
    """
    norms = [norm for norm in trace.norms if not norm.is_resized and _is_over(norm, run, trace)]
    choices: list[NormScales] = []
    for variant in ("sure", "likely"):
        own = [_of_norm(norm, variant, trace) for norm in norms]
        if all(scales is not None for scales in own):
            choices.append(_union_of(scales for scales in own if scales is not None))
    if any(norm.powers != Powers(0.0, 0.0) for norm in norms):
        choices.append(_of_stream(run, trace))
    distinct: list[NormScales] = []
    for choice in choices or [{}]:
        if choice not in distinct:
            distinct.append(choice)
    return distinct


def _is_over(norm: WrittenNorm, run: Sequence[UnitSlices], trace: Trace) -> bool:
    """Whether a norm runs over these units."""
    roots = set(listed(trace.units.roots(without_repeats(norm.labels)).flatten()))
    return not roots.isdisjoint(_root_of(unit, trace) for unit in run)


def _root_of(unit: UnitSlices, trace: Trace) -> int:
    """The label that stands for a unit."""
    place, positions = next(iter(unit.items()))
    labels = trace.slices[place.path, place.dim].labels
    return trace.units.root(int(labels[positions[0]]))


def _of_norm(norm: WrittenNorm, variant: str, trace: Trace) -> NormScales | None:
    """The factors for a norm's weight and eps; None if they are not known."""
    power = getattr(norm.powers, variant)
    scales: NormScales = {}
    of = next(iter(norm.weights), None)
    dim = 0 if of is None else _weight_dimension(of, trace)
    for eps in norm.eps:
        eps_power = -getattr(eps.powers, variant)
        paths = norm.eps_paths.get(eps)
        if eps_power and not paths:
            return None
        for path in paths or []:
            if eps_power:
                scales[path] = {"power": eps_power, "of": of, "dim": dim}
    if not power:
        return scales
    if of is None or norm.weights[of] is None:
        return None
    scales[of] = {"power": power, "of": of, "dim": dim, "offset": norm.weights[of]}
    return scales


def _weight_dimension(path: str, trace: Trace) -> int:
    """The dimension of a tensor that units lie along."""
    return next(dim for owner, dim in trace.slices if owner == path)


def _of_stream(run: Sequence[UnitSlices], trace: Trace) -> NormScales:
    """The factors for what makes and reads the units: their mean square stays as it was."""
    scales: NormScales = {}
    first = _counted_place(run, trace)
    for place in run[0]:
        if place.path not in trace.multipliers and place.path not in trace.norm_weights:
            power = 0.5 if place.reads else -0.5
            scales[place.path] = {"power": power, "of": first.path, "dim": first.dim}
    return scales


def _counted_place(run: Sequence[UnitSlices], trace: Trace) -> SlicePlace:
    """A place where the units are a whole dimension, if there is one, else their first."""
    for place in run[0]:
        slices = sum(len(unit[place]) for unit in run)
        if slices == trace.shapes[place.path][place.dim]:
            return place
    return next(iter(run[0]))


def _union_of(choices: Iterable[NormScales]) -> NormScales:
    together: NormScales = {}
    for scales in choices:
        together |= scales
    return together
