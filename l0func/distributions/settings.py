"""Checks for the settings of a distribution: Python numbers with which float32 can compute."""

from __future__ import annotations

import inspect
import math
from numbers import Real
from typing import Any

from torch import Tensor

SMALLEST_STRETCH = 1e-7
"""In float32, 1 and the next number lie 1.2e-7 apart."""

LARGEST_STRETCH = 1e4
"""A gate is the difference of two numbers as large as the stretch, and keeps three digits."""


def take_numbers(distribution: Any, *names: str) -> None:
    """Turn settings into Python floats, where they are real numbers.

    Args:
        distribution: The distribution, while it is built.
        *names: Its settings.

    Raises:
        TypeError: A setting is no real number.
    """
    for name in names:
        value = getattr(distribution, name)
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(_no_number(type(distribution).__name__, name, value))
        object.__setattr__(distribution, name, float(value))


def _no_number(owner: str, name: str, value: Any) -> str:
    if isinstance(value, Tensor):
        return (
            f"{owner} holds Python numbers, so that a spec can be compared and saved; {name} is a "
            f"tensor. Give {name}.item(); for another value at each step, build each step's spec "
            "with spec.with_distribution(...). The one number of a gate that is learned is its "
            "log_alpha."
        )
    return f"{owner} takes a number as its {name}; got {value!r}."


def check_stretch(distribution: Any, low: str, high: str) -> None:
    """Refuse stretch limits that leave no room for exact zeros or ones in float32.

    Args:
        distribution: The distribution.
        low: The name of its lower limit.
        high: The name of its upper limit.

    Raises:
        ValueError: The limits do not contain [0, 1], or are too near to it or too far from it.
    """
    below, above = getattr(distribution, low), getattr(distribution, high)
    got = f"got {low}={below}, {high}={above}"
    if not below < 0.0 < 1.0 < above:
        raise ValueError(
            "The stretch interval must strictly contain [0, 1], or exact zeros and ones "
            f"have no mass; {got}."
        )
    for distance in (-below, above - 1.0):
        # As a slack of a tenth: 1 + 1e-7 - 1 is a little less than 1e-7.
        if not 0.9 * SMALLEST_STRETCH <= distance <= LARGEST_STRETCH:
            raise ValueError(
                f"The stretch limits lie between {SMALLEST_STRETCH} and {LARGEST_STRETCH:.0f} "
                f"outside of [0, 1], or float32 has no digits left for the gates; {got}. The "
                "usual limits are -0.1 and 1.1."
            )


def check_range(distribution: Any, name: str, smallest: float, largest: float = math.inf) -> None:
    """Refuse a setting outside the range in which float32 computes the gates.

    Raises:
        ValueError: The setting is smaller or larger.
    """
    value = getattr(distribution, name)
    if not smallest <= value <= largest:
        raise ValueError(
            f"{type(distribution).__name__} computes in float32 with {name} in [{smallest:g}, "
            f"{largest:g}]; got {name}={value}."
        )


def given_fields(cls: type[Any]) -> dict[str, Any]:
    """The dataclass fields that the constructor takes, by name; empty without a dataclass."""
    fields: dict[str, Any] = getattr(cls, "__dataclass_fields__", {})
    return {name: field for name, field in fields.items() if field.init}


def check_dataclass(distribution: Any) -> None:
    """Refuse a distribution that could not be compared, hashed and written to a file.

    Raises:
        TypeError: Its class is no frozen dataclass, or a setting is a tensor.
        ValueError: A setting has a name that the library uses.
    """
    kind: Any = distribution.__class__
    parameters: Any = getattr(kind, "__dataclass_params__", None)
    if parameters is None or not parameters.frozen or "__dataclass_params__" not in vars(kind):
        raise TypeError(
            f"A gate distribution is a frozen dataclass, so that specs can be compared; decorate "
            f"{kind.__name__} with @dataclass(frozen=True)."
        )
    for name in given_fields(kind):
        _check_is_free(kind, name)
        if isinstance(getattr(distribution, name), Tensor):
            raise TypeError(_no_number(kind.__name__, name, getattr(distribution, name)))


def _check_is_free(kind: type[Any], name: str) -> None:
    """Refuse a setting that would take the place of a value or method of the library."""
    for base in kind.__mro__:
        is_dataclass = "__dataclass_params__" in vars(base)
        if is_dataclass or not base.__module__.startswith("l0func."):
            continue
        if name in vars(base) or name in inspect.get_annotations(base):
            raise ValueError(
                f"The name {name!r} belongs to {base.__name__}; rename this setting of "
                f"{kind.__name__}."
            )
