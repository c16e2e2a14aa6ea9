"""The distributions that files may name: those of the library, and a user's registered ones."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from l0func.distributions.base import GateDistribution
from l0func.distributions.bernoulli import BernoulliGate
from l0func.distributions.gaussian_gate import GaussianGate
from l0func.distributions.hard_concrete import HardConcrete
from l0func.distributions.hard_kuma import HardKuma
from l0func.distributions.settings import given_fields
from l0func.internal import names
from l0func.internal.strict_json import shown

_CLASSES: list[type[GateDistribution]] = [HardConcrete, GaussianGate, HardKuma, BernoulliGate]

DISTRIBUTIONS = {cls.__name__: cls for cls in _CLASSES}
"""The distributions that :func:`from_dict` reads, by class name."""

# A spec writes a distribution's fields beside these.
_TAKEN = ("kind", "name", "shape", "dtype")

_Class = TypeVar("_Class", bound=type[GateDistribution])


def register(cls: _Class, /) -> _Class:
    """Let files name a distribution of your own; a decorator for its class.

    A file holds the class's name and its fields. Register the class in the program that reads
    the file, before it reads.

    Args:
        cls: A subclass of :class:`GateDistribution`, a dataclass. Its fields are JSON values, or
            tuples of them.

    Returns:
        The class.

    Raises:
        TypeError: It is no dataclass, or no subclass.
        ValueError: Another class has the name already, or a field is called kind, name, shape or
            dtype.

    Example:
        >>> import l0func as l0
        >>> from dataclasses import dataclass
        >>> @l0.distributions.register
        ... @dataclass(frozen=True)
        ... class NamedGate(l0.HardConcrete):
        ...     '''A hard concrete gate under a name of its own.'''
        >>> l0.distributions.from_dict(NamedGate().to_dict()) == NamedGate()
        True
    """
    _check_is_distribution(cls)
    earlier = DISTRIBUTIONS.get(cls.__name__, cls)
    # A cell that runs again in a notebook defines the same class again.
    if (earlier.__module__, earlier.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(
            f"Another distribution is registered as {cls.__name__!r}, from "
            f"{earlier.__module__}. Rename one of them."
        )
    for field in given_fields(cls):
        if field in _TAKEN:
            raise ValueError(
                f"A spec has its own use for the names {_TAKEN}; rename the field {field!r} of "
                f"{cls.__name__}."
            )
    DISTRIBUTIONS[cls.__name__] = cls
    return cls


def _check_is_distribution(cls: Any) -> None:
    is_class = inspect.isclass(cls) and issubclass(cls, GateDistribution)
    # Not inherited: a subclass without the decorator would write its parent's fields only.
    own: dict[str, Any] = dict(vars(cls)) if is_class else {}
    if "__dataclass_fields__" not in own:
        raise TypeError(
            "register takes a class: a subclass of GateDistribution with @dataclass(frozen=True); "
            f"got {cls!r}."
        )


def from_dict(record: Mapping[str, Any], /) -> GateDistribution:
    """The inverse of :meth:`l0func.GateDistribution.to_dict`.

    Args:
        record: ``{"kind": class name, field: value, ...}``.

    Returns:
        A distribution equal to the one written.

    Raises:
        ValueError: No distribution has this kind, a field is unknown or has a wrong type, or the
            distribution refuses its settings.

    Example:
        >>> import l0func as l0
        >>> record = l0.HardConcrete(temperature=0.5).to_dict()
        >>> record["kind"]
        'HardConcrete'
        >>> l0.distributions.from_dict(record) == l0.HardConcrete(temperature=0.5)
        True
    """
    settings = dict(record)
    cls = _class_of(settings.pop("kind", None))
    fields = given_fields(cls)
    for name, value in settings.items():
        if name not in fields:
            near = names.closest(name[:80], fields)
            raise ValueError(f"{cls.__name__} has no field {shown(name)}{near}.")
        settings[name] = _setting(value, fields[name], cls.__name__)
    try:
        return cls(**settings)
    # A user's class may raise anything; the reader of a file expects one kind of error.
    except Exception as error:
        raise ValueError(f"{cls.__name__} refuses its settings: {error}") from error


def _class_of(kind: Any) -> type[GateDistribution]:
    if isinstance(kind, str) and kind in DISTRIBUTIONS:
        return DISTRIBUTIONS[kind]
    near = names.closest(kind[:80], DISTRIBUTIONS) if isinstance(kind, str) else ""
    raise ValueError(
        f"A distribution is one of {sorted(DISTRIBUTIONS)}; the record says {shown(kind)}{near}. "
        "A class of your own goes through l0func.distributions.register first."
    )


def _setting(value: Any, field: Any, kind: str) -> Any:
    """A field's value from JSON; lists become the tuples that they were."""
    wanted = getattr(field.type, "__name__", field.type)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and not math.isfinite(value):
        raise ValueError(f"{kind}.{field.name} is a finite number; got {value!r}.")
    fitting = {
        "float": is_number,
        "int": is_number and isinstance(value, int),
        "bool": isinstance(value, bool),
        "str": isinstance(value, str),
    }
    if not fitting.get(wanted, True):
        raise ValueError(f"{kind}.{field.name} is a {wanted}; got {shown(value)}.")
    return _as_tuples(value)


def _as_tuples(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return tuple(_as_tuples(item) for item in cast("list[Any]", value))
