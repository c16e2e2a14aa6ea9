"""A table of values under texts that stand for them.

A compiled graph can store a text, but no distribution and no other object from this library.
Distributions enter the table when they are built, and the contraction enters each of its sweeps.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

T = TypeVar("T")


class Identities:
    """Values by their identity; an identity is a text that describes the value."""

    def __init__(self) -> None:
        self._values: dict[str, Hashable] = {}

    def identify(self, value: Hashable, description: str) -> str:
        """Enter a value and return its identity, the text for :meth:`find`.

        Args:
            value: Any value with equality by content.
            description: Its text. It must depend on the content alone: compilers keep graphs on
                disk, and another process reads the text there.
        """
        identity = description
        # setdefault is atomic, so threads need no lock. Unequal values may share a description.
        while self._values.setdefault(identity, value) != value:
            identity += "'"
        return identity

    def find(self, identity: str, kind: type[T]) -> T:
        """The value with this identity, an instance of ``kind``."""
        value = self._values[identity]
        assert isinstance(value, kind)
        return value


identities = Identities()
"""The table that this process uses."""
