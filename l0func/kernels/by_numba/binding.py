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
from l0func.kernels.by_numba import scalars, scalars32, scalars64
from l0func.kernels.by_numba.numba_names import numba
from l0func.kernels.by_numba.numba_names import numpy as np

_SCALARS: dict[Any, Any] = {np.float32: scalars32, np.float64: scalars64}
_VOCABULARY = {module.__name__ for module in (scalars, *_SCALARS.values())}
Bindings = tuple[tuple[str, FunctionType], ...]
"""A formula's functions by name."""
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
# Sums in a kernel's loops may be reordered, or the loops would not become vectors. The vocabulary
# would lose the small differences that it is written to keep.
_IN_LOOPS, _IN_VOCABULARY = {"contract", "reassoc"}, {"contract"}


def kernel(
    template: Any, real: Any, functions: Mapping[str, Any], tag: str, on_disk: bool
) -> Callable[..., Any]:
    """A template for some functions, to be compiled.

    Args:
        template: A function in a file of this folder. One with an argument ``room`` allocates
            nothing.
        real: ``numpy.float32`` or ``numpy.float64``: the type of the gates.
        functions: What the template's global names stand for.
        tag: A name for these functions, for the file on disk.
        on_disk: Whether the machine code stays on disk.
    """
    formula = tuple(functions.items())
    loop = _copied(template, real, formula)
    # The name on disk changes with every source: numba itself would look at one file alone.
    digest = _digest(template, functions)
    loop.__qualname__ = f"{template.__qualname__}_{tag}_{real.__name__}_{digest}"
    # numba counts the references to every slice with locked additions. They cost a tenth of the
    # time of a kernel with short loops. Where nothing is allocated, nothing has to be counted.
    counts = "room" not in template.__code__.co_varnames
    return numba.njit(cache=on_disk, fastmath=_IN_LOOPS, _nrt=counts, **_OPTIONS)(loop)


@cache
def bound(function: FunctionType, real: Any, formula: Bindings = ()) -> Any:
    """A formula, or a helper, compiled for inlining into kernels."""
    copy = _copied(function, real, formula)
    # A call that stays a call would keep the loop around it from becoming vectors.
    # Formulas round after every operation, as torch does, so that gates are 0 or 1 on both roads.
    of_vocabulary = function.__module__ in _VOCABULARY
    fastmath = _IN_VOCABULARY if of_vocabulary else False
    return numba.njit(fastmath=fastmath, forceinline=True, **_OPTIONS)(copy)


def _copied(function: Any, real: Any, formula: Bindings) -> Any:
    """The function with the names that it reads bound, and its floats in one type."""
    names = _names_in(function, dict(formula))
    for name, value in _functions_read(function, names):
        own = word(real, name) if name in vocabulary.NAMES else value
        names[name] = bound(own, real, formula)
    code = _with_reals(function.__code__, real)
    copy = FunctionType(code, names, function.__name__, function.__defaults__)
    copy.__module__ = function.__module__
    return copy


def word(real: Any, name: str) -> Any:
    """The function for a word of the vocabulary."""
    own = _SCALARS[real]
    return getattr(own if hasattr(own, name) else scalars, name)


def _names_in(function: Any, formula: Mapping[str, Any]) -> dict[str, Any]:
    """A function's globals; in this folder a formula's names stand for its functions."""
    is_kernel = function.__module__.startswith(f"{__package__}.")
    return {**function.__globals__, **(formula if is_kernel else {})}


def _functions_read(function: Any, names: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The global functions in a function's code, by name."""
    read = {str(i.argval) for i in get_instructions(function) if i.opname == "LOAD_GLOBAL"}
    known = [(name, names[name]) for name in sorted(read) if name in names]
    return [(n, f) for n, f in known if n in vocabulary.NAMES or isinstance(f, FunctionType)]


def _with_reals(code: CodeType, real: Any) -> CodeType:
    # numba computes in float64 wherever a Python float meets a float32.
    constants = tuple([real(c) if isinstance(c, float) else c for c in code.co_consts])
    return code.replace(co_consts=constants)


def _digest(template: Any, functions: Mapping[str, Any]) -> str:
    """A text that stands for the sources of this folder and of all functions read."""
    files = {*Path(__file__).parent.glob("*.py")}
    for function in (template, *functions.values()):
        _add_files(function, files)
    text = b"".join(path.read_bytes() for path in sorted(files))
    return sha256(text).hexdigest()[:16]


def _add_files(function: Any, files: set[Path]) -> None:
    files.add(Path(function.__code__.co_filename))
    for _, value in _functions_read(function, function.__globals__):
        if isinstance(value, FunctionType):
            _add_files(value, files)
