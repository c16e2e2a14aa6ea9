"""Which kernel draws the gates of single weights: the one in torch operations, or the same source
compiled.
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
    def __init__(self, kernel: Kernel) -> None:
        self.kernel: Kernel = kernel
        self.broken = False


def _checked(kernel: str, where: str) -> Kernel:
    if kernel not in KERNELS:
        raise ValueError(f"{where} takes one of {KERNELS}; got {kernel!r}.")
    return kernel


_choice = _Choice(
    _checked(os.environ.get(VARIABLE, "auto"), f"The environment variable {VARIABLE}")
)


def use_kernel(kernel: Kernel) -> None:
    """Choose the kernel of weights that have a gate each and a mask for every row, for the whole
    process.

    Both have the same source and the same draws. Compiled it is some ten times faster, after
    seconds of compilation for each new shape of a weight. The environment variable
    ``L0FUNC_KERNEL`` sets what a process starts with.

    Args:
        kernel: ``"auto"``: compiled inside ``torch.compile``, eager outside; ``"eager"``;
            ``"compiled"``.

    Raises:
        ValueError: It is none of these.
    """
    _choice.kernel, _choice.broken = _checked(kernel, "use_kernel"), False


def kernel_in_use() -> Literal["eager", "compiled"]:
    """The kernel that a call made here would run."""
    if _choice.broken or not compiles() or _choice.kernel == "eager":
        return "eager"
    return "compiled" if _choice.kernel == "compiled" or compiling() else "eager"


def kernel_can_compile() -> bool:
    """Whether nothing has failed to compile yet."""
    return not _choice.broken


def give_up(error: Exception) -> None:
    """Run eagerly from now on, and say so once."""
    if not _choice.broken:
        _choice.broken = True
        reason = str(error).strip().splitlines()
        warnings.warn(
            f"The compiled kernel does not build on this machine, so the eager one runs: "
            f"{reason[0] if reason else error!r}. "
            "Compiling needs a C++ compiler; l0func.use_kernel('eager') chooses without this "
            "warning.",
            stacklevel=2,
        )
