"""A latency table as JSON text: its parts, written and read strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any

from l0func.costs.machine import Machine
from l0func.internal.strict_json import parse, shown
from l0func.spec.json_values import fields_of, flag_of, integer_of, list_of, shape_of, text_of


@dataclass(frozen=True)
class WidthAxis:
    """A width: the slices that a parameter keeps along a dimension, and the grid on it."""

    path: str
    dim: int
    nodes: tuple[float, ...]


@dataclass(frozen=True)
class LayerTime:
    """Milliseconds of one layer on the grid of its widths.

    Attributes:
        path: The path of the layer.
        axes: The numbers of its axes, one or two.
        ms: A row for each grid point on the first axis; a row has one number for each point on the
            second axis, or one alone.
    """

    path: str
    axes: tuple[int, ...]
    ms: tuple[tuple[float, ...], ...]

    def has(self, parameter: str) -> bool:
        """Whether a parameter belongs to the layer."""
        rest = parameter.removeprefix(self.path).lstrip("._")
        return parameter.startswith(self.path) and rest in ("", "weight", "bias")


_TABLE_FIELDS = ("axes", "layers", "fixed", "groups", "shapes", "machine", "error", "is_elsewhere")


def text_of_parts(parts: Mapping[str, Any]) -> str:
    """A table's fields as JSON."""
    record = {name: parts[name] for name in _TABLE_FIELDS}
    for name in ("axes", "layers"):
        record[name] = [asdict(part) for part in record[name]]
    record["groups"], record["shapes"] = dict(record["groups"]), dict(record["shapes"])
    record["machine"] = asdict(record["machine"])
    return json.dumps(record)


def parts_of(text: Any) -> dict[str, Any]:
    """The fields of a table in a text.

    Raises:
        TypeError: It is no text.
        ValueError: It is no table.
    """
    if not isinstance(text, str | bytes):
        kind = type(text).__name__
        raise TypeError(f"A table's text comes from LatencyTable.to_json; got {kind}.")
    try:
        return _table_fields(fields_of(parse(text), "the document", _TABLE_FIELDS))
    except ValueError as error:
        raise ValueError(
            f"A table's text comes from LatencyTable.to_json; got {shown(text[:60])}: {error}"
        ) from None


def _table_fields(record: dict[str, Any]) -> dict[str, Any]:
    axes = [
        _width_axis(value, f"axes[{i}]") for i, value in enumerate(list_of(record["axes"], "axes"))
    ]
    points = {len(axis.nodes) for axis in axes}
    if len(points) > 1:
        raise ValueError(f"all axes have equally many nodes; got {sorted(points)}")
    layers: list[LayerTime] = []
    for i, value in enumerate(list_of(record["layers"], "layers")):
        layers.append(_layer_time(value, f"layers[{i}]", axes))
    groups = fields_of(record["groups"], "groups", (), others=True)
    shapes = fields_of(record["shapes"], "shapes", (), others=True)
    return {
        "axes": tuple(axes),
        "layers": tuple(layers),
        "fixed": _finite(record["fixed"], "fixed"),
        "groups": {name: integer_of(n, f"groups.{name}") for name, n in groups.items()},
        "shapes": {path: shape_of(s, f"shapes.{path}") for path, s in shapes.items()},
        "machine": _machine(record["machine"]),
        "error": _finite(record["error"], "error"),
        "is_elsewhere": flag_of(record["is_elsewhere"], "is_elsewhere"),
    }


def _width_axis(value: Any, where: str) -> WidthAxis:
    record = fields_of(value, where, ("path", "dim", "nodes"))
    nodes = _all_finite(record["nodes"], f"{where}.nodes")
    if len(nodes) < 2 or sorted(set(nodes)) != list(nodes):
        raise ValueError(f"{where}.nodes are two numbers or more, each above the last one")
    dim = integer_of(record["dim"], f"{where}.dim")
    return WidthAxis(text_of(record["path"], f"{where}.path"), dim, nodes)


def _layer_time(value: Any, where: str, axes: Sequence[WidthAxis]) -> LayerTime:
    record = fields_of(value, where, ("path", "axes", "ms"))
    numbers = [integer_of(n, f"{where}.axes") for n in list_of(record["axes"], f"{where}.axes")]
    if len(numbers) not in (1, 2) or not all(0 <= n < len(axes) for n in numbers):
        raise ValueError(f"{where}.axes are one or two numbers of axes; got {numbers}")
    rows = [_all_finite(row, f"{where}.ms") for row in list_of(record["ms"], f"{where}.ms")]
    points = len(axes[0].nodes)
    wanted = [points if len(numbers) == 2 else 1] * points
    if [len(row) for row in rows] != wanted:
        raise ValueError(f"{where}.ms has a number for each point of its axes' grids")
    return LayerTime(text_of(record["path"], f"{where}.path"), tuple(numbers), tuple(rows))


def _machine(value: Any) -> Machine:
    known = [field.name for field in fields(Machine)]
    record = fields_of(value, "machine", known)
    threads = integer_of(record.pop("threads"), "machine.threads")
    texts = {name: text_of(text, f"machine.{name}") for name, text in record.items()}
    return Machine(**texts, threads=threads)


def _all_finite(value: Any, where: str) -> tuple[float, ...]:
    return tuple(_finite(number, where) for number in list_of(value, where))


def _finite(value: Any, where: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not isfinite(value):
        raise ValueError(f"{where} is a finite number; got {shown(value)}")
    return float(value)
