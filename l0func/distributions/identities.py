"""Texts that stand for gate distributions.

A compiled graph can store a text, but no distribution. The text depends on the class and its
settings alone: compilers keep graphs on disk, and another process reads the text there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_distributions: dict[str, Any] = {}
"""The distributions that this process has built, by their text."""


def identify(distribution: object, fields: Mapping[str, Any]) -> str:
    """A distribution's text; :func:`distribution_of` finds the distribution again.

    Args:
        distribution: Any value with equality by content.
        fields: Its settings.
    """
    kind: Any = type(distribution)
    name = f"{kind.__module__}.{kind.__qualname__}"
    identity = json.dumps({"kind": name, **fields}, default=repr)
    # setdefault is atomic, so threads need no lock. Classes that were defined twice share a name.
    while _distributions.setdefault(identity, distribution) != distribution:
        identity += "'"
    return identity


def distribution_of(identity: str) -> Any:
    """The distribution with a text.

    Raises:
        KeyError: This process has built no such distribution.
    """
    if identity not in _distributions:
        raise KeyError(
            f"A compiled graph draws gates from {identity}, and this process has built no such "
            "distribution. Build it before the graph runs."
        )
    return _distributions[identity]
