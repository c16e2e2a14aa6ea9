"""The process's choice of a kernel for entry gates: torch operations, or the same source compiled.

The contraction in the engine asks here; users choose with ``use_kernel``.
"""

from __future__ import annotations

import os
import warnings
from typing import Literal

from l0func.internal.context import compiles, compiling

Kernel = Literal["auto", "eager", "compiled"]

KERNELS: tuple[Kernel, ...] = ("auto", "eager", "compiled")
VARIABLE = "L0FUNC_KERNEL"


class _Choice:
    """The chosen kernel, and whether compiling it has failed."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel: Kernel = kernel
        self.broken = False


def _checked(kernel: str, where: str) -> Kernel:
    if kernel not in KERNELS:
        raise ValueError(f"{where} takes one of {KERNELS}; got {kernel!r}.")
    return kernel


def _kernel_of_environment() -> Kernel:
    kernel = os.environ.get(VARIABLE, "auto")
    return _checked(kernel, f"The environment variable {VARIABLE}")


_choice = _Choice(_kernel_of_environment())


def use_kernel(kernel: Kernel) -> None:
    """Choose the kernel for weights with a gate for each entry and a mask for each example.

    The choice holds for the whole process. Both kernels have the same source and the same draws.
    The compiled one is some ten times faster, after seconds of compilation for each new weight
    shape. The environment variable ``L0FUNC_KERNEL`` sets the choice at the start of a process.

    Args:
        kernel: ``"eager"``, ``"compiled"``, or ``"auto"``: compiled inside ``torch.compile`` and
            eager outside.

    Raises:
        ValueError: ``kernel`` is none of these.
    """
    _choice.kernel = _checked(kernel, "use_kernel")
    _choice.broken = False


def chosen() -> Kernel:
    """The process's choice."""
    return _choice.kernel


def kernel_in_use() -> Literal["eager", "compiled"]:
    """The kernel for a call made now; inside a compiler ``"auto"`` means the compiled one."""
    if _choice.broken or not compiles() or _choice.kernel == "eager":
        return "eager"
    if _choice.kernel == "compiled" or compiling():
        return "compiled"
    return "eager"


def kernel_can_compile() -> bool:
    """Whether no compilation has failed since the last choice."""
    return not _choice.broken


def give_up(error: Exception) -> None:
    """Run the eager kernel from now on, and warn the first time."""
    if _choice.broken:
        return
    _choice.broken = True
    lines = str(error).strip().splitlines()
    reason = lines[0] if lines else repr(error)
    warnings.warn(
        f"The compiled kernel does not build on this machine, so the eager one runs: {reason}. "
        "Compiling needs a C++ compiler; l0func.use_kernel('eager') chooses without this warning.",
        stacklevel=2,
    )
