"""Named tuples with type parameters: for a type checker only.

At run time they are plain named tuples. Python 3.10 has no generic ones, and some versions of
torch take a tuple with a second base for a leaf.
"""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Generic as Generic
    from typing import NamedTuple as NamedTuple

    from typing_extensions import TypeVar as TypeVar
else:

    class _Bases:
        """A base that the class statement replaces."""

        def __init__(self, *bases: Any) -> None:
            self.bases = bases

        def __getitem__(self, parameters: Any) -> Any:
            return self

        def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
            return self.bases

    NamedTuple = _Bases(*typing.NamedTuple.__mro_entries__((typing.NamedTuple,)))
    Generic = _Bases()

    def TypeVar(name: str, *, bound: Any = None, default: Any = None) -> Any:
        """A type variable without its default, which Python knows from 3.13 on."""
        return typing.TypeVar(name, bound=bound)
