"""A kernel's first call: it compiles the kernel, or loads the machine code that numba kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from l0func.kernels.by_numba.numba_names import numba
from l0func.kernels.by_numba.progress import compiling_takes
from l0func.kernels.unbuilt import Unbuilt

Make = Callable[[bool], Any]
"""A function that returns a new numba function; its argument is whether the disk keeps it."""

BUILDING: Any = import_module("numba.core.compiler_lock").global_compiler_lock
"""Held while anything of numba compiles."""
if hasattr(os, "register_at_fork"):
    # A process that forks while another thread compiles could never compile itself.
    os.register_at_fork(
        before=BUILDING.acquire, after_in_parent=BUILDING.release, after_in_child=BUILDING.release
    )


def built(make: Make, args: tuple[Any, ...]) -> Any:
    """The kernel that ``make`` makes, compiled for the types of these arguments.

    Raises:
        Unbuilt: numba cannot compile it.
    """
    types = tuple([numba.typeof(arg) for arg in args])
    with BUILDING:
        try:
            return _from_disk(make, types)
        except Exception:
            # No folder for the machine code, or a full disk.
            return _in_memory(make, types)


def _from_disk(make: Make, types: tuple[Any, ...]) -> Any:
    kernel = make(True)
    folder = kernel.stats.cache_path
    try:
        _compile(kernel, types, f"once; {folder} keeps them")
    except Exception:
        # A damaged file.
        _forget(kernel, folder)
        kernel = make(True)
        _compile(kernel, types, f"once; {folder} keeps them")
    return kernel


def _in_memory(make: Make, types: tuple[Any, ...]) -> Any:
    why = "again in every process: no folder keeps them; set NUMBA_CACHE_DIR to one"
    try:
        kernel = make(False)
        _compile(kernel, types, why)
    except Exception as error:
        raise Unbuilt(error) from error
    return kernel


def _compile(kernel: Any, types: tuple[Any, ...], how_often: str) -> None:
    with compiling_takes(f"l0func: numba compiles its kernels for this machine ({how_often})."):
        kernel.compile(types)


def _forget(kernel: Any, folder: str) -> None:
    """Remove a kernel's files."""
    for path in Path(folder).glob(f"*.{kernel.py_func.__qualname__}-*"):
        path.unlink(missing_ok=True)
