"""The units of a module that no one described: found by tracing it, and tried before they are
verified.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, combinations, islice
from typing import Any, cast

from torch import Tensor, nn

from l0func.compaction.grouping import UnitVector, unit_vectors
from l0func.compaction.resize import RESIZERS
from l0func.compaction.trial import Trial
from l0func.pure.functional import Functional, PureModule, make_functional
from l0func.pure.part import Part
from l0func.spec.plan import Group
from l0func.tracing.follow import follow
from l0func.tracing.trace import Trace

_TRIES = 40


class UnitGroups(dict[str, Group]):
    """``{name: group}``, for ``gate_spec(params, groups=…, buffers=…)``.

    Attributes:
        sizes: How many units each group has.
        refused: For units that cannot be removed, by the parameter that makes them, why.
        normed: The groups over whose units an RMSNorm runs: their gates multiply what makes the
            units, not what reads them.
    """

    def __init__(
        self, groups: Mapping[str, Group], found: Sequence[UnitVector], refused: Mapping[str, str]
    ) -> None:
        super().__init__(groups)
        self.sizes = {f.name: f.count for f in found if f.name in groups}
        self.refused = dict(refused)
        self.normed = frozenset(f.name for f in found if f.normed and f.name in groups)

    def __repr__(self) -> str:
        groups = "1 group" if len(self) == 1 else f"{len(self)} groups"
        lines = [f"UnitGroups: {sum(self.sizes.values())} units in {groups}"]
        lines += [f"  {name}: {n} units" for name, n in self.sizes.items()]
        lines += [f"  stays {name}: {reason}" for name, reason in self.refused.items()]
        return "\n".join(lines)


def unit_groups(module: nn.Module, example_inputs: Any) -> UnitGroups:
    """Groups of slices that belong to one hidden unit, channel or attention head each, found by
    tracing the module.

    Each unit's gate multiplies the slices that read it and owns those that make it, normalisation
    and running statistics included, so that a closed unit is gone whatever the activation. The
    module runs once, in eval mode, on the examples, and every operation passes the units on; what
    has no rule, and what cannot lose units exactly (a LayerNorm over them, an output of the
    module), is refused, with the reason. Then the groups are tried: some of their units are
    removed from a copy with random weights, and the smaller copy must give what the pruned one
    gives. Attributes that forward reads sizes from, such as head counts, are found by that trial
    too.

    Args:
        module: Any module. It is not changed.
        example_inputs: A tensor, or a tuple of the inputs of its ``forward``; two rows or more.

    Returns:
        A dict of groups, with ``sizes`` and ``refused``; ``print`` it.

    Raises:
        TypeError: ``module`` is not an eager nn.Module.
        ValueError: Forward branches on data; or no unit at all can be removed, with the reasons.

    Example:
        >>> unit_groups(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.ones(2, 4))
        UnitGroups: 3 units in 1 group
          0: 3 units
          stays 2.weight: they are an output of the module
    """
    inputs = (
        cast("tuple[Any, ...]", example_inputs)
        if isinstance(example_inputs, tuple)
        else (example_inputs,)
    )
    fn, params, buffers = make_functional(module)
    eager = Functional(fn.eval(), params, buffers)
    groups = groups_in(eager, inputs, follow(*eager, inputs))
    if not groups:
        reasons = (
            "; ".join(f"{path!r}: {reason}" for path, reason in groups.refused.items())
            or "it has no parameters"
        )
        raise ValueError(f"No units of this {type(module).__name__} can be removed. {reasons}.")
    return groups


def groups_in(function: Functional, inputs: tuple[Any, ...], trace: Trace) -> UnitGroups:
    """The groups of a function that was traced on these inputs; maybe none."""
    found, refused = unit_vectors(trace)
    groups = _verified(Trial(function, inputs), found, refused)
    return UnitGroups(groups, found, refused)


def _verified(
    trial: Trial, found: Sequence[UnitVector], refused: dict[str, str]
) -> dict[str, Group]:
    """The groups whose removal leaves the pruned function, alone and together."""
    groups = {f.name: f.group({}) for f in found}
    if not groups or trial.problem(groups) is None:
        return groups
    verified: dict[str, Group] = {}
    for f in found:
        fitting = _with_fitting_attributes(trial, f)
        problem = (
            fitting if isinstance(fitting, str) else trial.problem({**verified, f.name: fitting})
        )
        if problem is None:
            verified[f.name] = cast("Group", fitting)
        else:
            refused[f.maker] = f"a trial without some of them failed: {problem}"
    return verified


def _with_fitting_attributes(trial: Trial, found: UnitVector) -> Group | str:
    """The group with the attributes that make its removal exact, fewest first; or why there are
    none.
    """
    first: str | None = None
    for attrs in islice(_attribute_choices(trial.function.fn, found), _TRIES):
        group = found.group(attrs)
        problem = trial.problem({found.name: group})
        if problem is None:
            return group
        first = first or problem
    assert first is not None
    return first


def _attribute_choices(fn: PureModule, found: UnitVector) -> Iterator[dict[str, int]]:
    """Choices of integers in and above the modules of the units that count them, or their slices,
    or parts of these.
    """
    owners = {path.rpartition(".")[0] for path in found.paths()}
    near = {owner for path in owners for owner in _ancestors(path)}
    candidates = [
        (f"{path}.{name}".strip("."), value // found.count)
        for path, part in fn.parts()
        if path.rpartition(".")[0] in near or path in near
        for name, value in _integers(part)
        if value
        and value % found.count == 0
        and any(size % (value // found.count) == 0 for size in {1, *found.sizes})
    ]
    # What counts units or slices before what counts parts of them; the nearest first.
    candidates.sort(key=lambda c: (c[1] not in {1, *found.sizes}, -c[0].count(".")))
    subsets = (combinations(candidates, n) for n in range(min(len(candidates), 3) + 1))
    yield from (dict(subset) for subset in chain.from_iterable(subsets))
    if len(candidates) > 3:
        yield dict(candidates)


def _ancestors(path: str) -> Iterator[str]:
    names = path.split(".")
    yield from (".".join(names[:length]) for length in range(len(names) + 1))


def _integers(part: Part) -> Iterator[tuple[str, int]]:
    if issubclass(part.kind, tuple(RESIZERS)) and part.paths():
        # These follow their tensors.
        return
    for name, value in part.attributes().items():
        yield from _integers_in(name, value, depth=2)


def _integers_in(name: str, value: Any, depth: int) -> Iterator[tuple[str, int]]:
    if type(value) is int:
        yield name, value
    elif depth and isinstance(value, tuple | list):
        for i, item in enumerate(cast("Sequence[Any]", value)):
            yield from _integers_in(f"{name}.{i}", item, depth - 1)
    elif depth and not isinstance(value, Tensor | type) and hasattr(value, "__dict__"):
        for key, item in cast("dict[str, Any]", vars(value)).items():
            yield from _integers_in(f"{name}.{key}", item, depth - 1)
