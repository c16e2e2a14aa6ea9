"""Apply the factors in the ``attrs`` of groups: they make up for units lost under an RMSNorm.

:mod:`l0func.compaction.norm_scales` describes these factors and finds them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from l0func.pure.part import Part
from l0func.spec.plan import GateSpec


@dataclass(frozen=True)
class Scaling:
    """Factors for tensors and for the numbers in attributes.

    Attributes:
        factors: ``{path: factor}``.
        offsets: ``{path: number}`` for tensors that a number is added to before they scale.
    """

    factors: dict[str, float]
    offsets: dict[str, float]

    def of_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors, scaled where they have a factor."""
        scaled = dict(tensors)
        for path in self.factors.keys() & tensors.keys():
            factor, offset = self.factors[path], self.offsets.get(path, 0.0)
            scaled[path] = tensors[path] * factor + (factor - 1.0) * offset
        return scaled

    def of_attributes(
        self, parts: Mapping[str, Part], tensors: Collection[str]
    ) -> dict[str, Part]:
        """The submodules, with the numbers scaled that have a factor.

        Args:
            parts: The submodules, by their paths.
            tensors: The paths of all tensors; the other paths are attributes.

        Raises:
            ValueError: No module has such an attribute.
        """
        changed = dict(parts)
        for path, factor in self.factors.items():
            if path not in tensors:
                module, name, keys = _attribute_place(path, parts)
                value = _scaled_number(changed[module].attribute(name), keys, factor)
                changed[module] = changed[module].with_attribute(name, value)
        return changed


def scaling_of(
    spec: GateSpec, before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> Scaling:
    """The factors that a spec's groups ask for.

    Args:
        spec: The spec.
        before: All tensors before units are removed.
        after: All tensors after that.

    Raises:
        ValueError: A factor is not described as l0func.group says.
    """
    factors: dict[str, float] = {}
    offsets: dict[str, float] = {}
    for group, attrs in spec.attrs:
        for path, value in cast("dict[str, Any]", json.loads(attrs)).items():
            if isinstance(value, dict):
                scale = cast("dict[str, Any]", value)
                _check_scale(group, path, scale, before)
                of, dim = str(scale["of"]), int(scale["dim"])
                ratio: float = before[of].shape[dim] / after[of].shape[dim]
                factors[path] = ratio ** scale["power"]
                offsets[path] = scale.get("offset", 0.0)
    return Scaling(factors, offsets)


def _check_scale(
    group: str, path: str, scale: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    of, dim = str(scale.get("of")), scale.get("dim")
    numbers = [scale.get("power"), scale.get("offset", 0.0)]
    is_counted = (
        of in tensors and type(dim) is int and -tensors[of].dim() <= dim < tensors[of].dim()
    )
    if not is_counted or any(type(number) not in (int, float) for number in numbers):
        raise ValueError(
            f"A factor in a group's attrs is {{'power': number, 'of': tensor, 'dim': dimension}}, "
            f"and may have an 'offset'; group {group!r} says {dict(scale)!r} for {path!r}."
        )


def _attribute_place(path: str, parts: Mapping[str, Part]) -> tuple[str, str, list[str]]:
    """The module, the attribute and the keys into it."""
    steps = path.split(".")
    for length in range(len(steps) - 1, -1, -1):
        module, attribute = ".".join(steps[:length]), steps[length]
        if module in parts and attribute in parts[module].attributes():
            return module, attribute, steps[length + 1 :]
    raise ValueError(
        f"A group's attrs scale {path!r}, which is neither a tensor nor an attribute."
    )


def _scaled_number(value: Any, keys: Sequence[str], factor: float) -> Any:
    """A copy of an attribute in which the number at these keys is multiplied."""
    if not keys:
        return value * factor
    key, *deeper = keys
    if hasattr(value, "_replace"):
        return value._replace(**{key: _scaled_number(getattr(value, key), deeper, factor)})
    if isinstance(value, tuple):
        return tuple(_scaled_number(list(cast("tuple[Any, ...]", value)), keys, factor))
    changed = copy(value)
    if isinstance(value, list | dict):
        at: Any = int(key) if isinstance(value, list) else key
        changed[at] = _scaled_number(changed[at], deeper, factor)
    else:
        # Past the object's own __setattr__: a frozen dataclass would refuse.
        object.__setattr__(changed, key, _scaled_number(getattr(value, key), deeper, factor))
    return changed
