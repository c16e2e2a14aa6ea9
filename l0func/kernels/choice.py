"""The process's choice of kernels: torch operations, or machine code by numba and Triton."""

from __future__ import annotations

import os
from typing import Literal

import torch

from l0func.internal.context import compiling
from l0func.internal.watch import warn_user
from l0func.kernels.loading import Compiler, Loaded, load_kernels, reason_of

Kernel = Literal["auto", "eager", "compiled"]
Backend = Literal["torch", "numba", "triton"]

KERNELS: tuple[Kernel, ...] = ("auto", "eager", "compiled")
VARIABLE = "L0FUNC_KERNEL"
_COMPILERS: dict[str, Compiler] = {"cpu": "numba", "cuda": "triton"}


class _Choice:
    """The chosen kernels, and the compilers that failed at a kernel since."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel: Kernel = kernel
        self.broken: set[Compiler] = set()


def _checked(kernel: str, where: str) -> Kernel:
    if kernel not in KERNELS:
        raise ValueError(f"{where} takes one of {KERNELS}; got {kernel!r}.")
    return kernel


def _kernel_of_environment() -> Kernel:
    kernel = os.environ.get(VARIABLE, "auto")
    return _checked(kernel, f"The environment variable {VARIABLE}")


_choice = _Choice(_kernel_of_environment())


def use_kernel(kernel: Kernel) -> None:
    """Choose what computes draws, gates and their products with weights.

    The choice holds for the whole process; all kernels make the same draws. numba compiles for
    the CPU and Triton for CUDA. Machine code is many times faster; each kernel takes a second or
    two of compilation, once on a machine. The environment variable ``L0FUNC_KERNEL`` sets the
    choice at the start of a process.

    Args:
        kernel: ``"auto"``, the fastest that is installed; ``"eager"``, torch operations; or
            ``"compiled"``, machine code, and an error where it is missing.

    Raises:
        ValueError: ``kernel`` is none of these.
        RuntimeError: ``kernel`` is ``"compiled"``, and neither compiler works here.

    Example:
        >>> import l0func as l0
        >>> l0.use_kernel("eager")
        >>> l0.kernel_in_use()
        'torch'
        >>> l0.use_kernel("auto")
    """
    checked = _checked(kernel, "use_kernel")
    _choice.broken.clear()
    if checked == "compiled" and not torch.cuda.is_available():
        _required("numba")
    _choice.kernel = checked


def chosen() -> Kernel:
    """The process's choice."""
    return _choice.kernel


def kernel_in_use(device: str | torch.device = "cpu") -> Backend:
    """The kernels for plain tensors in a call made now.

    Args:
        device: The tensors' device.

    Returns:
        ``"torch"``, ``"numba"`` or ``"triton"``.

    Example:
        >>> import l0func as l0
        >>> l0.use_kernel("eager")
        >>> l0.kernel_in_use("cpu")
        'torch'
        >>> l0.use_kernel("auto")
    """
    compiler = _COMPILERS.get(torch.device(device).type)
    if compiler is None or _choice.kernel == "eager" or compiling():
        return "torch"
    return "torch" if machine_code(compiler) is None else compiler


def machine_code(compiler: Compiler) -> Loaded | None:
    """The compiler's kernels, or None where torch operations run in their place.

    Raises:
        RuntimeError: They are missing, and the choice is ``"compiled"``.
    """
    if _choice.kernel == "compiled":
        return _required(compiler)
    if compiler in _choice.broken:
        return None
    found = load_kernels(compiler)
    return None if found.kernels is None else found


def give_up(compiler: Compiler, error: BaseException) -> None:
    """Run torch operations from now on, and warn the first time.

    Raises:
        RuntimeError: The choice is ``"compiled"``.
    """
    reason = f"{compiler} cannot build a kernel of l0func: {reason_of(error)}"
    if _choice.kernel == "compiled":
        raise RuntimeError(f"{reason}. l0func.use_kernel('eager') runs without it.") from error
    if compiler not in _choice.broken:
        _choice.broken.add(compiler)
        warn_user(f"{reason}. Torch operations run in its place: slower, with the same draws.")


def _required(compiler: Compiler) -> Loaded:
    found = load_kernels(compiler)
    if found.kernels is None:
        raise RuntimeError(
            f"use_kernel('compiled') needs {compiler}, and {found.why_not}. "
            "use_kernel('auto') takes the fastest kernel that is there."
        )
    return found
