"""The units of a module that no one described: found by tracing it, and tried before they are believed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, combinations, islice
from math import isfinite
from typing import Any, cast

import torch
from torch import Tensor, nn

from l0func import random, tree
from l0func.functional import Functional, Part, PureModule, make_functional
from l0func.gates import deterministic_gates
from l0func.grouping import Found, found_in
from l0func.prune import prune
from l0func.removal import remove
from l0func.resize import RULES
from l0func.spec import Group, gate_spec, stream
from l0func.tracing.follow import follow
from l0func.tracing.trace import Trace

_TRIES = 40


class UnitGroups(dict[str, Group]):
    """``{name: group}``, for ``gate_spec(params, groups=…, buffers=…)``.

    Attributes:
        sizes: How many units each group has.
        refused: For units that cannot be removed, by the parameter that makes them, why.
        normed: The groups over whose units an RMSNorm runs: their gates multiply what makes the units, not what reads them.
    """

    def __init__(self, groups: Mapping[str, Group], found: Sequence[Found], refused: Mapping[str, str]) -> None:
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
    """Groups of slices that belong to one hidden unit, channel or attention head each, found by tracing the module.

    Each unit's gate multiplies the slices that read it and owns those that make it, normalisation and running statistics
    included, so that a closed unit is gone whatever the activation. The module runs once, in eval mode, on the examples, and
    every operation passes the units on; what has no rule, and what cannot lose units exactly (a LayerNorm over them, an
    output of the module), is refused, with the reason. Then the groups are tried: some of their units are removed from a
    copy with random weights, and the smaller copy must give what the pruned one gives. Attributes that forward reads sizes
    from, such as head counts, are found by that trial too.

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
    inputs = cast("tuple[Any, ...]", example_inputs) if isinstance(example_inputs, tuple) else (example_inputs,)
    fn, params, buffers = make_functional(module)
    eager = Functional(fn.eval(), params, buffers)
    groups = groups_in(eager, inputs, follow(*eager, inputs))
    if not groups:
        reasons = "; ".join(f"{path!r}: {reason}" for path, reason in groups.refused.items()) or "it has no parameters"
        raise ValueError(f"No units of this {type(module).__name__} can be removed. {reasons}.")
    return groups


def groups_in(function: Functional, inputs: tuple[Any, ...], trace: Trace) -> UnitGroups:
    """The groups of a function that was traced on these inputs; maybe none."""
    found, refused = found_in(trace)
    groups = _tried(_Trial(function, inputs), found, refused)
    return UnitGroups(groups, found, refused)


def _tried(trial: _Trial, found: Sequence[Found], refused: dict[str, str]) -> dict[str, Group]:
    """The groups whose removal leaves the pruned function, alone and together."""
    groups = {f.name: f.group({}) for f in found}
    if not groups or trial.problem(groups) is None:
        return groups
    believed: dict[str, Group] = {}
    for f in found:
        fitting = _fitting(trial, f)
        problem = fitting if isinstance(fitting, str) else trial.problem({**believed, f.name: fitting})
        if problem is None:
            believed[f.name] = cast("Group", fitting)
        else:
            refused[f.maker] = f"a trial without some of them failed: {problem}"
    return believed


def _fitting(trial: _Trial, found: Found) -> Group | str:
    """The group with the attributes that make its removal exact, fewest first; or why there are none."""
    first: str | None = None
    for attrs in islice(_attributes(trial.function.fn, found), _TRIES):
        group = found.group(attrs)
        problem = trial.problem({found.name: group})
        if problem is None:
            return group
        first = first or problem
    assert first is not None
    return first


def _attributes(fn: PureModule, found: Found) -> Iterator[dict[str, int]]:
    """Choices of integers in and above the modules of the units that count them, or their slices, or parts of these."""
    owners = {path.rpartition(".")[0] for path in found.paths()}
    near = {owner for path in owners for owner in _ancestors(path)}
    candidates = [
        (f"{path}.{name}".strip("."), value // found.count)
        for path, part in fn.parts()
        if path.rpartition(".")[0] in near or path in near
        for name, value in _integers(part)
        if value and value % found.count == 0 and any(size % (value // found.count) == 0 for size in {1, *found.sizes})
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
    if issubclass(part.kind, tuple(RULES)) and part.paths():
        # These follow their tensors.
        return
    for name, value in part.attributes().items():
        yield from _numbers(name, value, depth=2)


def _numbers(name: str, value: Any, depth: int) -> Iterator[tuple[str, int]]:
    if type(value) is int:
        yield name, value
    elif depth and isinstance(value, tuple | list):
        for i, item in enumerate(cast("Sequence[Any]", value)):
            yield from _numbers(f"{name}.{i}", item, depth - 1)
    elif depth and not isinstance(value, Tensor | type) and hasattr(value, "__dict__"):
        for key, item in cast("dict[str, Any]", vars(value)).items():
            yield from _numbers(f"{name}.{key}", item, depth - 1)


class _Trial:
    """A copy of a function with random weights, from which units are removed to see whether the rest stays as it was."""

    def __init__(self, function: Functional, inputs: tuple[Any, ...]) -> None:
        self.function = function
        self.inputs = inputs
        self.device = next((p.device for p in function.params.values()), None)
        wide = tree.map_tensors(_wide, (inputs, _shaken(function)))
        try:
            function.fn(*wide[1], *wide[0])
            self.inputs, (self.params, self.buffers) = wide
            self.tolerance = 1e-7
        except RuntimeError:
            # Forward makes tensors of a type of its own.
            self.params, self.buffers = _shaken(function)
            self.tolerance = 1e-3

    def problem(self, groups: Mapping[str, Group]) -> str | None:
        """What goes wrong when some units of these groups are removed; None if nothing does."""
        found = (self._problem(groups, lost) for lost in _losses(len(groups)))
        return next((problem for problem in found if problem is not None), None)

    def _problem(self, groups: Mapping[str, Group], lost: Callable[[int, int], int]) -> str | None:
        fn = self.function.fn
        try:
            spec = gate_spec(self.params, groups=groups, buffers=self.buffers)
            gates = {
                gate.name: _closed(gate.name, gate.shape[0], lost(i, gate.shape[0])).to(self.device, gate.dtype)
                for i, gate in enumerate(spec.gates)
            }
            pruned = prune(self.params, gates, spec)
            expected = fn(pruned, self.buffers, *self.inputs)
            opens = {name: z != 0 for name, z in deterministic_gates(gates, spec, "louizos").items()}
            small, params, buffers = remove(fn, pruned, self.buffers, spec, opens)
            output = small(params, buffers, *self.inputs)
        except Exception as error:
            # Whatever a stranger's forward raises on other sizes is the reason.
            return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return None if same_output(output, expected, self.tolerance) else "the outputs differ from the pruned network's"


def _wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _shaken(function: Functional) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters and buffers that no two channels share: a fresh BatchNorm would not tell one from another."""

    def shake(path: str, tensor: Tensor, noise: float) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        u, n = random.split(random.fold_in(random.key(0), stream(path)), 2)
        scale = 0.5 + random.uniform(u, tuple(tensor.shape)).to(tensor)
        return tensor * scale + noise * random.normal(n, tuple(tensor.shape)).to(tensor)

    params = {path: shake(path, p, 0.03) for path, p in function.params.items()}
    return params, {path: shake(path, b, 0.0) for path, b in function.buffers.items()}


def _losses(groups: int) -> Iterator[Callable[[int, int], int]]:
    """Ways to lose units: from the number of a group and its size to how many it loses.

    Half of all, all but one, and then one unit of some groups, so that any two of them once lose different numbers: a forward
    that halves its input takes equal losses well.
    """
    yield lambda i, size: size // 2
    yield lambda i, size: size - 1
    for bit in range(groups.bit_length()):
        yield lambda i, size, bit=bit: (i + 1) >> bit & 1


def _closed(name: str, count: int, closed: int) -> Tensor:
    """Gates of which so many are closed, and the others open to a degree of their own."""
    u = random.uniform(random.fold_in(random.key(1), stream(name)), count)
    return torch.where(u.argsort().argsort() < closed, -20.0, 4 * u)


def same_output(output: Any, expected: Any, tolerance: float | None = None) -> bool:
    """Whether two outputs have the same shapes and numbers, up to a share of the largest; None is by the type."""
    pairs = [[t for _, t in tree.walk(o) if isinstance(t, Tensor)] for o in (output, expected)]
    if len(pairs[0]) != len(pairs[1]):
        return False
    for a, b in zip(*pairs, strict=True):
        if a.shape != b.shape:
            return False
        largest = float(b.double().abs().max()) if b.numel() else 0.0
        if not isfinite(largest):
            if not torch.allclose(a, b, equal_nan=True):
                return False
            continue
        share = tolerance or (1e-8 if b.dtype == torch.float64 else 1e-3)
        if b.numel() and not torch.allclose(a.double(), b.double(), rtol=0, atol=share * largest):
            return False
    return True
