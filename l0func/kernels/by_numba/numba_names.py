"""The names that the kernels take from numba and numpy, which have no types."""

from __future__ import annotations

from importlib import import_module
from typing import Any

numpy: Any = import_module("numpy")
numba: Any = import_module("numba")
intrinsic: Any = import_module("numba.extending").intrinsic
types: Any = import_module("numba.core.types")
ir: Any = import_module("llvmlite.ir")
