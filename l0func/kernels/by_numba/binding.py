"""From plain functions to compiled ones: names bound to a backend's functions, then numba.

A kernel is a *template*: a function in a file, with loops, whose global names stand for a formula.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dis import get_instructions
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from l0func.kernels import vocabulary
from l0func.kernels.by_numba import scalars32, scalars64
from l0func.kernels.by_numba.numba_names import numba
from l0func.kernels.by_numba.numba_names import numpy as np

_SCALARS: dict[Any, Any] = {np.float32: scalars32, np.float64: scalars64}
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
# A sum may be reordered in a kernel's loops, where vectors need it; in formulas it would lose the
# small differences that they are written to keep.
_IN_LOOPS, _IN_FORMULAS = {"contract", "reassoc"}, {"contract"}


def kernel(template: Any, real: Any, functions: Mapping[str, Any], tag: str) -> Callable[..., Any]:
    """A template compiled for some functions; the machine code stays on disk.

    Args:
        template: A function in a file of this folder.
        real: ``numpy.float32`` or ``numpy.float64``: the type of the gates.
        functions: What the template's global names stand for.
        tag: A name for these functions, for the file on disk.
    """
    names = {**template.__globals__, **functions}
    loop = _copied(template, names, real)
    # The name on disk changes with every source: numba itself would look at one file alone.
    digest = _digest(template, names)
    loop.__qualname__ = f"{template.__qualname__}_{tag}_{real.__name__}_{digest}"
    return numba.njit(cache=True, fastmath=_IN_LOOPS, **_OPTIONS)(loop)


@cache
def bound(function: FunctionType, real: Any) -> Any:
    """A formula, or a helper, compiled for inlining into kernels."""
    copy = _copied(function, function.__globals__, real)
    return numba.njit(fastmath=_IN_FORMULAS, **_OPTIONS)(copy)


def _copied(function: Any, names: Mapping[str, Any], real: Any) -> Any:
    """The function with the names that it reads bound, and its floats in one type."""
    names = {**names}
    for name, value in _functions_read(function, names):
        own = getattr(_SCALARS[real], name) if name in vocabulary.NAMES else value
        names[name] = bound(own, real)
    code = _with_reals(function.__code__, real)
    copy = FunctionType(code, names, function.__name__, function.__defaults__)
    copy.__module__ = function.__module__
    return copy


def _functions_read(function: Any, names: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The global functions in a function's code, by name."""
    read = {str(i.argval) for i in get_instructions(function) if i.opname == "LOAD_GLOBAL"}
    known = [(name, names[name]) for name in sorted(read) if name in names]
    return [(n, f) for n, f in known if n in vocabulary.NAMES or isinstance(f, FunctionType)]


def _with_reals(code: CodeType, real: Any) -> CodeType:
    # numba computes in float64 wherever a Python float meets a float32.
    constants = tuple([real(c) if isinstance(c, float) else c for c in code.co_consts])
    return code.replace(co_consts=constants)


def _digest(template: Any, names: Mapping[str, Any]) -> str:
    """A text that stands for the sources of this folder and of all functions read."""
    files = {*Path(__file__).parent.glob("*.py")}
    _add_files(template, names, files)
    text = b"".join(path.read_bytes() for path in sorted(files))
    return sha256(text).hexdigest()[:16]


def _add_files(function: Any, names: Mapping[str, Any], files: set[Path]) -> None:
    files.add(Path(function.__code__.co_filename))
    for _, value in _functions_read(function, names):
        if isinstance(value, FunctionType):
            _add_files(value, value.__globals__, files)
