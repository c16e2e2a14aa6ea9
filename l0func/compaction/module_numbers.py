"""The integers in a module's attributes, and the names among them that forward reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

from torch import Tensor

from l0func.compaction.attributes import lowered
from l0func.compaction.examples import same_output
from l0func.compaction.resize import RESIZERS
from l0func.compaction.trial import Trial
from l0func.pure.functional import Functional
from l0func.pure.part import Part

# How many levels to search below an attribute: the items of containers, the attributes of objects.
_DEEPEST = 2


class ModuleNumber(NamedTuple):
    """An integer in a module's attribute.

    Attributes:
        module: The module's path.
        name: The attribute's dotted name in the module.
        value: The integer.
        holder: The ``id`` of the attribute, if that is an object around the integer; or -1.
    """

    module: str
    name: str
    value: int
    holder: int

    @property
    def path(self) -> str:
        """The dotted path, as in the ``attrs`` of a group."""
        return f"{self.module}.{self.name}".strip(".")


def read_numbers(trial: Trial) -> list[ModuleNumber]:
    """The integers above one that forward reads on the trial's inputs.

    Each name is lowered by one in all modules at once. If the output stays the same, forward does
    not read it. So the number of runs does not grow with the number of like blocks.
    """
    by_name: dict[str, list[ModuleNumber]] = {}
    for path, part in trial.fn.parts():
        for number in _integers(path, part):
            if number.value > 1:
                by_name.setdefault(number.name, []).append(number)
    found: list[ModuleNumber] = []
    for numbers in by_name.values():
        if are_read(trial, numbers):
            found += numbers
    return found


def are_read(trial: Trial, numbers: Sequence[ModuleNumber]) -> bool:
    """Whether the output on the trial's inputs changes if these numbers are lower by one."""
    parts = dict(trial.fn.parts())
    changed: dict[str, Part] = {}
    try:
        for number in numbers:
            name, *keys = number.name.split(".")
            part = changed.get(number.module, parts[number.module])
            value = lowered(part.attributes()[name], keys, 1, number.path)
            changed[number.module] = part.with_attribute(name, value)
        other = trial.fn.resized(trial.fn.shapes, changed)
        output = trial.call(Functional(other, trial.params, trial.buffers))
    except Exception:
        # A forward of unknown code may raise anything when a number in it changes.
        return True
    return not same_output(output, trial.output, trial.tolerance)


def _integers(path: str, part: Part) -> Iterator[ModuleNumber]:
    """The integers in a module's attributes."""
    if issubclass(part.kind, tuple(RESIZERS)) and part.paths():
        # A resizer sets this module's attributes.
        return
    for attribute, value in part.attributes().items():
        holder = -1 if type(value) is int else id(value)
        for name, number in _integers_in(attribute, value, depth=_DEEPEST):
            yield ModuleNumber(path, name, number, holder)


def _integers_in(name: str, value: Any, depth: int) -> Iterator[tuple[str, int]]:
    if type(value) is int:
        yield name, value
    elif depth:
        for key, item in items_in(value):
            yield from _integers_in(f"{name}.{key}", item, depth - 1)


def items_in(value: Any) -> list[tuple[Any, Any]]:
    """The items in a container, or an object's attributes; tensors and types have none."""
    if hasattr(value, "_asdict"):
        return list(value._asdict().items())
    if isinstance(value, tuple | list):
        return list(enumerate(cast("Sequence[Any]", value)))
    if isinstance(value, dict):
        pairs = cast("dict[Any, Any]", value).items()
        return [(key, item) for key, item in pairs if isinstance(key, str) and "." not in key]
    if isinstance(value, Tensor | type) or not hasattr(value, "__dict__"):
        return []
    return list(cast("dict[str, Any]", vars(value)).items())
