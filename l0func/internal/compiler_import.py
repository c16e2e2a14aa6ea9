"""What waits for the import of torch's compiler: its import takes longer than torch's own.

Few processes compile, so the library does not import the compiler itself.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
Action = Callable[[Any], None]
"""A function of the compiler's module."""

COMPILER = "torch._dynamo"


def graph_node(function: F, /) -> F:
    """``torch.compiler.allow_in_graph``, without importing the compiler.

    The compiler writes a call of the function into its graph, and does not trace the function's
    Python code.
    """

    def register(compiler: Any) -> None:
        compiler.allow_in_graph(function)

    once_imported(register)
    return function


def graph_constant(function: F, /) -> F:
    """``torch.compiler.assume_constant_result``, without importing the compiler.

    The compiler calls the function and keeps its answer in the graph.
    """

    def register(compiler: Any) -> None:
        compiler.assume_constant_result(function)

    once_imported(register)
    return function


def once_imported(action: Action, /) -> None:
    """Call ``action(torch._dynamo)`` once that module is imported, or now if it already is."""
    # The finder first: an import that starts now is seen by the finder or by the next line.
    _finder.wait_for(action)
    if COMPILER in sys.modules:
        _finder.act(_compiler())


def _compiler() -> Any:
    # An import, not a look into sys.modules: it waits for another thread's import to end.
    import torch._dynamo

    return torch._dynamo


class _Finder(MetaPathFinder):
    """Finds the compiler's module as the other finders do; its loader then runs the actions."""

    def __init__(self) -> None:
        self._waiting: list[Action] = []
        self._lock = threading.RLock()
        self._own = threading.local()

    def wait_for(self, action: Action) -> None:
        """Keep an action for the end of the import."""
        with self._lock:
            self._waiting.append(action)
            if self not in sys.meta_path:
                sys.meta_path.insert(0, self)

    def act(self, compiler: Any) -> None:
        """Run the actions that wait."""
        with self._lock:
            while self._waiting:
                self._waiting.pop(0)(compiler)
            if self in sys.meta_path:
                sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        # Another finder of this kind may ask all finders in turn, this one included.
        if fullname != COMPILER or getattr(self._own, "searching", False):
            return None
        self._own.searching = True
        try:
            spec = self._found_by_others(fullname, path, target)
        finally:
            self._own.searching = False
        if spec is not None and spec.loader is not None:
            spec.loader = _ActingLoader(spec.loader)
        return spec

    def _found_by_others(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        others: list[Any] = [finder for finder in sys.meta_path if finder is not self]
        for finder in others:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                return spec
        return None


class _ActingLoader(Loader):
    """A module's own loader, followed by the actions."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # From here on the module shows its own loader: others read its source and files there.
        module.__loader__ = self._own
        if module.__spec__ is not None:
            module.__spec__.loader = self._own
        self._own.exec_module(module)
        _finder.act(module)


_finder = _Finder()
