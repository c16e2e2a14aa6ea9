"""What distributions compute from their settings: once for all equal ones.

The last ones stay, so that training with a new temperature at each step keeps no more memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Any, ClassVar

from l0func.distributions.settings import check_dataclass, given_fields
from l0func.internal.compiler_import import graph_constant
from l0func.internal.context import compiling
from l0func.internal.untyped import untyped

KEPT_DISTRIBUTIONS = 1024
"""The distributions that stay when nothing else holds them; each takes about 8 kB."""


class _InGraphs:
    """The distributions that compiled functions build, as attributes. They stay with the graphs.

    A compiler guards the attribute that it reads, and not the others. It would guard a whole
    table, and compile again after every distribution that another function builds.
    """


_IN_GRAPHS = _InGraphs()


class Derived:
    """A frozen dataclass with further attributes that depend on its settings alone."""

    derived_names: ClassVar[tuple[str, ...]]
    """The further attributes; no setting may have such a name."""

    def __post_init__(self) -> None:
        if not compiling():
            # A compiler does not follow the check. It runs when the twin is built.
            check_dataclass(self)
        # Stored, not computed at each use: a compiler reads attributes but follows no cache.
        twin = self._in_graph() if compiling() else _twin(self)
        for name in self.derived_names:
            object.__setattr__(self, name, getattr(twin, name))
        if twin is not self:
            # The twin lives with its copies; it does not hold itself, and goes with the last one.
            object.__setattr__(self, "twin", twin)

    def _compute(self) -> None:
        """Set the attributes named in ``derived_names``."""
        raise NotImplementedError

    def _in_graph(self) -> Any:
        """An equal object that a compiler may read."""
        names = tuple(given_fields(type(self)))
        # A compiler holds keys of a dict for constants, also where it would leave a number open.
        values = [next(iter({getattr(self, name): None})) for name in names]
        return getattr(_IN_GRAPHS, _name_in_graphs(type(self), names, tuple(values)))

    def _fields(self) -> dict[str, Any]:
        """The values that a caller gave, without those derived from them."""
        derived = (*self.derived_names, "twin")
        return {n: value for n, value in vars(self).items() if n not in derived}

    def __getstate__(self) -> dict[str, Any]:
        return self._fields()

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        # What was computed belongs to one process; this may be another.
        self.__post_init__()


def keeping(last: int) -> Callable[[Any], Any]:
    """A function that finds, of equal distributions, the first one with its derived attributes.

    Args:
        last: The distributions that the function keeps.
    """

    @lru_cache(maxsize=last)
    def first(distribution: Any) -> Any:
        # Numbers are computed, also where torch only traces: in an export or among fake tensors.
        with untyped.utils._python_dispatch._disable_current_modes():
            distribution._compute()
        return distribution

    return first


_twin = keeping(KEPT_DISTRIBUTIONS)


@graph_constant
def _name_in_graphs(kind: type[Any], names: tuple[str, ...], values: tuple[Any, ...]) -> str:
    """The name of an attribute that holds the distribution with these settings."""
    twin: Any = object.__new__(kind)
    for field, value in zip(names, values, strict=True):
        object.__setattr__(twin, field, value)
    check_dataclass(twin)
    twin = _twin(twin)
    name = f"kept_{sha256(twin.identity.encode()).hexdigest()}"
    setattr(_IN_GRAPHS, name, twin)
    return name
