"""The integers in a module's attributes, and the names among them that forward reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

from torch import Tensor

from l0func.compaction.attributes import lowered
from l0func.compaction.examples import same_output
from l0func.compaction.resize import RESIZERS
from l0func.compaction.trial import Trial
from l0func.pure.part import Part

# How many levels to search below an attribute: the items of containers, the attributes of objects.
_DEEPEST = 2


class ModuleNumber(NamedTuple):
    """An integer in a module's attribute.

    Attributes:
        module: The module's path.
        name: The attribute's dotted name in the module.
        value: The integer.
    """

    module: str
    name: str
    value: int

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
        for name, value in _integers(part):
            if value > 1:
                by_name.setdefault(name, []).append(ModuleNumber(path, name, value))
    expected = trial.inputs.call(trial.fn, trial.params, trial.buffers)
    found: list[ModuleNumber] = []
    for numbers in by_name.values():
        if _are_read(trial, numbers, expected):
            found += numbers
    return found


def _are_read(trial: Trial, numbers: Sequence[ModuleNumber], expected: Any) -> bool:
    parts = dict(trial.fn.parts())
    changed: dict[str, Part] = {}
    try:
        for number in numbers:
            name, *keys = number.name.split(".")
            part = parts[number.module]
            value = lowered(part.attributes()[name], keys, 1, number.path)
            changed[number.module] = part.with_attribute(name, value)
        other = trial.fn.resized(trial.fn.shapes, changed)
        output = trial.inputs.call(other, trial.params, trial.buffers)
    except Exception:
        # A forward of unknown code may raise anything when a number in it changes.
        return True
    return not same_output(output, expected, trial.tolerance)


def _integers(part: Part) -> Iterator[tuple[str, int]]:
    """A module's integer attributes: dotted names and values."""
    if issubclass(part.kind, tuple(RESIZERS)) and part.paths():
        # A resizer sets this module's attributes.
        return
    for name, value in part.attributes().items():
        yield from _integers_in(name, value, depth=_DEEPEST)


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
