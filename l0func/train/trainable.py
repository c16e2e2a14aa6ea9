"""The parameters that training moves: paths or patterns, and a check for frozen ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import EllipsisType
from typing import Any, TypeAlias, cast

from torch import Tensor

from l0func.internal import names, tree
from l0func.internal.scalars import with_type
from l0func.internal.tree import Pytree
from l0func.internal.watch import listed_names

Trainable: TypeAlias = str | Iterable[str] | EllipsisType | None
"""Patterns or paths; None is all, and an ellipsis all, unless the module had frozen some."""

Patterns: TypeAlias = tuple[str, ...] | None


def patterns_of(trainable: Trainable) -> Patterns:
    """The patterns as a tuple; None if everything moves.

    Raises:
        TypeError: The argument is neither text nor a collection of texts.
    """
    if trainable is None or trainable is ...:
        return None
    given: Any = (trainable,) if isinstance(trainable, str) else trainable
    if not isinstance(given, Iterable) or isinstance(given, Mapping):
        raise _type_error(given)
    patterns: list[str] = []
    for pattern in cast("Iterable[Any]", given):
        if not isinstance(pattern, str):
            raise _type_error(pattern)
        patterns.append(pattern)
    return tuple(sorted(patterns))


def _type_error(given: Any) -> TypeError:
    return TypeError(
        "trainable is a pattern, or several patterns or paths, such as fn.trainable; None moves "
        f"all parameters. Got {with_type(given)}."
    )


def moving(params: Pytree, patterns: Patterns) -> Pytree:
    """The parameters that move: ``params`` itself, or a flat dict with those that match.

    Raises:
        ValueError: A pattern matches no parameter.
    """
    if patterns is None:
        return params
    named = tree.leaves(params)
    names.check_patterns(patterns, named, "parameter")
    chosen = names.first_matches(named, dict.fromkeys(patterns))
    return {path: named[path] for path in chosen}


def check_not_frozen(params: Mapping[str, Tensor], frozen: Mapping[int, Tensor]) -> None:
    """Refuse to move parameters that a module had frozen.

    Args:
        params: The parameters that would move.
        frozen: Parameters that a pure function's module had frozen, by ``id``.

    Raises:
        ValueError: There is such a parameter.
    """
    both = [path for path, t in params.items() if id(t) in frozen]
    if both:
        raise ValueError(
            f"The module had {listed_names(both)} frozen (requires_grad=False), and this training "
            "would move them. Pass trainable=fn.trainable to l0func.training to leave them as "
            "they are, or trainable=None to move all parameters."
        )
