"""The backends in machine code: imported at their first use, or the reason why one is missing."""

from __future__ import annotations

import os
import re
from importlib import import_module
from importlib.util import find_spec
from threading import RLock
from typing import Any, Literal, NamedTuple

from l0func.internal.watch import warn_user

Compiler = Literal["numba", "triton"]

OLDEST_NUMBA = (0, 57)

_MODULES = {"numba": "l0func.kernels.by_numba.api", "triton": "l0func.kernels.by_triton.api"}


class Loaded(NamedTuple):
    """A backend's module, or None and the reason."""

    kernels: Any
    why_not: str


class _Unfit(Exception):
    """An installed compiler that was told not to compile."""


_loaded: dict[Compiler, Loaded] = {}
_lock = RLock()
if hasattr(os, "register_at_fork"):
    # A process that forks while another thread imports could never finish the import.
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


def load_kernels(compiler: Compiler) -> Loaded:
    """The kernels that a compiler makes; a broken installation warns once."""
    found = _loaded.get(compiler)
    return _load_once(compiler) if found is None else found


def _load_once(compiler: Compiler) -> Loaded:
    with _lock:
        if compiler not in _loaded:
            _loaded[compiler] = _load(compiler)
        return _loaded[compiler]


def _load(compiler: Compiler) -> Loaded:
    if not _is_installed(compiler):
        return Loaded(None, f"{compiler} is not installed (pip install 'l0func[fast]')")
    try:
        if compiler == "numba":
            _check_numba(import_module("numba"))
        return Loaded(import_module(_MODULES[compiler]), "")
    except _Unfit as error:
        return Loaded(None, str(error))
    except Exception as error:
        reason = f"{compiler} does not work here: {reason_of(error)}"
        warn_user(f"{reason}. Torch operations run in its place: slower, with the same draws.")
        return Loaded(None, reason)


def _is_installed(compiler: Compiler) -> bool:
    try:
        return find_spec(compiler) is not None and find_spec(_MODULES[compiler]) is not None
    except (ImportError, ValueError):
        # A program may hide a module: sys.modules["numba"] = None.
        return False


def _check_numba(numba: Any) -> None:
    found = tuple(map(int, re.findall(r"\d+", numba.__version__)[:2]))
    if found < OLDEST_NUMBA:
        oldest = ".".join(map(str, OLDEST_NUMBA))
        raise ImportError(f"l0func needs numba {oldest} or later, and finds {numba.__version__}")
    if numba.config.DISABLE_JIT:
        raise _Unfit("numba compiles nothing, because NUMBA_DISABLE_JIT is set")


def reason_of(error: BaseException) -> str:
    """An error's first line of text, or its name."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)
