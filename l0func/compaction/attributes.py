"""Lower the module attributes that count units, such as head counts, when units are removed.

Groups name these attributes in ``attrs``; ``removal`` applies them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple, cast

from torch import Tensor

from l0func.internal import names
from l0func.pure.part import Part
from l0func.spec.plan import GateSpec


class _AttributePlace(NamedTuple):
    """The place where a number is stored: a module, its attribute, and keys into that."""

    module: str
    attribute: str
    keys: tuple[str, ...]


def with_group_attributes(
    original: Mapping[str, Part],
    resized: Mapping[str, Part],
    spec: GateSpec,
    opens: Mapping[str, Tensor],
) -> dict[str, Part]:
    """Lower the attributes that the groups name by the amount for the closed units.

    Args:
        original: The submodules before the removal, by their paths.
        resized: The submodules with their new sizes.
        spec: The gate spec; its groups hold the amount that one unit takes from an attribute.
        opens: For each gate vector a bool tensor: True where the gate is open.

    Returns:
        The resized submodules with lower attributes.

    Raises:
        ValueError: An attribute does not exist, is no integer, is too small, or contradicts the
            module's tensors.
    """
    changed = dict(resized)
    for path, amount in _amounts_to_remove(spec, opens).items():
        place = _locate(path, original)
        before = original[place.module].attributes()[place.attribute]
        by_tensors = changed[place.module].attributes()[place.attribute]
        # Another group may have lowered another item already.
        value = lowered(by_tensors if place.keys else before, place.keys, amount, path)
        if not place.keys and by_tensors not in (value, before):
            raise ValueError(
                f"A group's attrs make {path!r} {value}, and the slices that its tensors keep "
                f"make it {by_tensors}. "
                "Leave it out of attrs: modules of torch follow their tensors."
            )
        changed[place.module] = changed[place.module].with_attribute(place.attribute, value)
    return changed


def _amounts_to_remove(spec: GateSpec, opens: Mapping[str, Tensor]) -> dict[str, int]:
    """For each attribute that groups name: the amount that closed units take from it."""
    amounts: dict[str, int] = {}
    for group, attrs in spec.attrs:
        closed = int((~opens[group]).sum())
        for path, each in cast("dict[str, Any]", json.loads(attrs)).items():
            if isinstance(each, dict):
                # A factor: compaction.scaling applies it.
                continue
            _check_amount(group, path, each)
            amounts[path] = amounts.get(path, 0) + each * closed
    return amounts


def _check_amount(group: str, path: str, each: Any) -> None:
    if not isinstance(each, int) or isinstance(each, bool):
        raise ValueError(
            "A group's attrs are {'module.attribute': amount for one unit}, and each amount is an "
            f"integer; group {group!r} says {each!r} for {path!r}."
        )


def _locate(path: str, parts: Mapping[str, Part]) -> _AttributePlace:
    """Split a dotted path; the longest module path that fits wins."""
    steps = path.split(".")
    for length in range(len(steps) - 1, -1, -1):
        module, attribute = ".".join(steps[:length]), steps[length]
        if module in parts and attribute in parts[module].attributes():
            return _AttributePlace(module, attribute, tuple(steps[length + 1 :]))
    known = _integer_attributes(parts)
    raise ValueError(
        f"A group's attrs name {path!r}, which no module has{names.closest(path, known)}."
    )


def _integer_attributes(parts: Mapping[str, Part]) -> list[str]:
    found: list[str] = []
    for module, part in parts.items():
        for name, value in part.attributes().items():
            if type(value) is int:
                found.append(f"{module}.{name}".strip("."))
    return found


def lowered(value: Any, keys: Sequence[str], amount: int, path: str) -> Any:
    """A copy of an attribute in which the integer at these keys is lower.

    Args:
        value: The attribute's value: the integer, or a container or an object around it.
        keys: The keys, indices or attribute names that lead to the integer.
        amount: The amount to take from it.
        path: The attribute's path, for the error.

    Raises:
        ValueError: There is no integer at these keys, or it is too small.
    """
    if not keys:
        if _class_of_value(value) is not int or value <= amount:
            raise ValueError(f"A group's attrs take {amount} from {path!r}, which is {value!r}.")
        return value - amount
    key, *deeper = keys
    if hasattr(value, "_replace"):
        return value._replace(**{key: lowered(getattr(value, key), deeper, amount, path)})
    if _class_of_value(value) is tuple:
        return tuple(lowered(list(value), keys, amount, path))
    changed = copy(value)
    if isinstance(value, list | dict):
        items: Any = changed
        at: Any = int(key) if isinstance(value, list) else key
        items[at] = lowered(items[at], deeper, amount, path)
    else:
        # Past the object's own __setattr__: a frozen dataclass would refuse.
        attribute = lowered(getattr(value, key), deeper, amount, path)
        object.__setattr__(changed, key, attribute)
    return changed


def _class_of_value(value: Any) -> Any:
    return cast("Any", type(value))
