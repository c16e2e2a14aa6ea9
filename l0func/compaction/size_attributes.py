"""Module attributes that count units, set to the sizes that the tensors near them have now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, cast

from l0func.compaction.attributes import lowered
from l0func.compaction.near_sizes import NearSize, NearSizes, common_ratio
from l0func.compaction.read_names import names_read_by
from l0func.compaction.resize import RESIZERS
from l0func.compaction.size_words import Meaning, meaning
from l0func.internal.attributes import attributes_of
from l0func.pure.part import Part


class SizeNumber(NamedTuple):
    """An integer above one that a module holds.

    Attributes:
        module: The module's path.
        keys: The attribute's name, and the name inside it if it is an object such as a config.
        value: The integer.
        is_read: Whether the code of the module's class has these names.
    """

    module: str
    keys: tuple[str, ...]
    value: int
    is_read: bool

    @property
    def path(self) -> str:
        """The dotted path."""
        return ".".join([self.module, *self.keys]).strip(".")


class UnclearSize(Exception):
    """A number whose new value does not follow from shapes, and the reason."""

    def __init__(self, number: SizeNumber, reason: str) -> None:
        super().__init__(f"{number.path!r} ({number.value}): {reason}")
        self.number = number


def numbers_of(path: str, part: Part) -> Iterator[SizeNumber]:
    """A module's own integers above one, and head counts in its objects, such as a config.

    Modules of torch with tensors are left out: a resizer sets their sizes.
    """
    if issubclass(part.kind, tuple(RESIZERS)) and part.paths():
        return
    read = names_read_by(part.kind)
    for name, value in part.attributes().items():
        if type(value) is int and value > 1:
            yield SizeNumber(path, (name,), value, name in read)
        elif isinstance(value, tuple | list) and name in read:
            yield from _items(path, name, cast("Sequence[Any]", value))
        elif has_numbers(value) and name in read:
            for inner, number in attributes_of(value):
                is_count = type(number) is int and number > 1 and meaning(inner) == "share"
                if is_count and inner in read:
                    yield SizeNumber(path, (name, inner), number, True)


def _items(path: str, name: str, values: Sequence[Any]) -> Iterator[SizeNumber]:
    """The integers above one in a list of sizes, which forward reads."""
    for place, value in enumerate(values):
        if type(value) is int and value > 1:
            yield SizeNumber(path, (name, str(place)), value, True)


def has_numbers(value: Any) -> bool:
    """Whether a value is a plain object with attributes, such as a config."""
    return hasattr(value, "__dict__") and not isinstance(value, type) and not callable(value)


def new_value(number: SizeNumber, near: NearSizes) -> int:
    """The value that a number has after the tensors near it lost slices.

    Args:
        number: The number.
        near: The sizes near every module.

    Raises:
        UnclearSize: It may have to change, and the shapes do not say to what.
    """
    kind = _meaning(number)
    sizes = near.sizes[number.module]
    if kind == "else" or all(size.old == size.new for size in sizes):
        return number.value
    if kind == "share":
        return _in_ratio(number, common_ratio(sizes, number.value))
    if kind == "unknown":
        return _not_a_size(number, sizes)
    exact = [size for size in sizes if size.old == number.value]
    if kind in ("inputs", "outputs"):
        exact = [size for size in exact if size.makes == (kind == "outputs")]
    values = {size.new for size in exact}
    if not values or values == {number.value}:
        return number.value
    if len(values) == 1 and not (kind == "width" and number.is_read):
        return values.pop()
    if kind == "inner":
        return _in_ratio(number, common_ratio(sizes, number.value))
    if kind == "width" and number.is_read:
        raise UnclearSize(number, "forward may read a size from it, or scale numbers by it")
    raise UnclearSize(number, f"sizes near it went from {number.value} to {sorted(values)}")


def _meaning(number: SizeNumber) -> Meaning:
    """What a number counts; for an item in a list its name does not say."""
    if not number.keys[-1].isdigit():
        return meaning(number.keys[-1])
    return "else" if meaning(number.keys[0]) == "else" else "unknown"


def _not_a_size(number: SizeNumber, sizes: Iterable[NearSize]) -> int:
    """The number as it is, unless forward reads it and it may count units that went."""
    for size in sizes:
        if number.is_read and size.new < size.old and size.old % number.value == 0:
            raise UnclearSize(number, "forward reads it, and its name does not say what it counts")
    return number.value


def _in_ratio(number: SizeNumber, ratio: Fraction | None) -> int:
    if ratio is None:
        raise UnclearSize(number, "the tensors near it keep different shares of their slices")
    scaled = number.value * ratio
    if scaled.denominator != 1:
        raise UnclearSize(number, f"{ratio} of the slices near it are left, no whole number of it")
    return scaled.numerator


def with_near_sizes(path: str, part: Part, near: NearSizes, *, refuse: bool = False) -> Part:
    """A resized part with the sizes in its attributes.

    Args:
        path: The module's path.
        part: The module, with sizes that its own tensors and its groups gave it.
        near: The sizes near every module, and the modules before.
        refuse: Whether nothing else has set the numbers that forward reads. Otherwise these stay.

    Raises:
        ValueError: The shapes do not say which size forward should read.
    """
    before = near.parts[path]
    for number in numbers_of(path, before):
        if number.is_read and not refuse:
            continue
        try:
            value = new_value(number, near)
        except UnclearSize as unclear:
            if number.is_read:
                raise _unclear_error(before, unclear) from None
            continue
        if value != number.value and _holds(part, number):
            part = _with_value(part, number, value)
    return part


def _holds(part: Part, number: SizeNumber) -> bool:
    """Whether a part still has the number as it was: a group may have set it."""
    value = part.attribute(number.keys[0])
    for key in number.keys[1:]:
        value = getattr(value, key)
    return type(value) is int and value == number.value


def _unclear_error(part: Part, unclear: UnclearSize) -> ValueError:
    return ValueError(
        f"The shapes do not say what becomes of the attribute {unclear} "
        f"({part.kind.__name__}). Pass example_inputs, inputs of forward: a trace finds the units "
        "then."
    )


def _with_value(part: Part, number: SizeNumber, value: int) -> Part:
    """A part with another value for one number; objects around it are copied."""
    name, *keys = number.keys
    amount = number.value - value
    return part.with_attribute(name, lowered(part.attribute(name), keys, amount, number.path))
