"""Texts that stand for gate distributions.

A compiled graph can store a text, but no distribution. The text depends on the class and its
settings alone: compilers keep graphs on disk, and another process reads the text there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

_DISTRIBUTIONS: WeakValueDictionary[str, Any] = WeakValueDictionary()
"""The distributions in this process, by their text; of equal ones, the first."""


def identify(distribution: object, fields: Mapping[str, Any]) -> tuple[str, Any]:
    """A distribution's text, and the distribution that :func:`distribution_of` finds by it.

    The text is found as long as something holds the second, which is equal to the first.

    Args:
        distribution: Any value with equality by content.
        fields: Its settings.
    """
    kind: Any = type(distribution)
    name = f"{kind.__module__}.{kind.__qualname__}"
    identity = json.dumps({"kind": name, **fields}, default=repr)
    # Classes that were defined twice share a name.
    while (first := _DISTRIBUTIONS.setdefault(identity, distribution)) != distribution:
        identity += "'"
    return identity, first


def distribution_of(identity: str) -> Any:
    """The distribution with a text.

    Raises:
        KeyError: This process has no such distribution.
    """
    found = _DISTRIBUTIONS.get(identity)
    if found is None:
        raise KeyError(
            f"A compiled graph draws gates from {identity}, and this process has no such "
            "distribution. Build it before the graph runs, and keep it."
        )
    return found
