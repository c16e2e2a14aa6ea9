"""The backend for some tensors: machine code where it can run, torch operations elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from l0func.internal.context import compiling
from l0func.internal.untyped import untyped
from l0func.kernels import by_torch, choice
from l0func.kernels.loading import Compiler
from l0func.kernels.unbuilt import Unbuilt

_PLAIN_TYPES = {Tensor, Parameter}
_PLAIN_DTYPES = {torch.float32, torch.float64, torch.int64}

_core: Any = untyped._C
_is_zerotensor: Any = untyped._is_zerotensor
_forward_mode: Any = untyped.autograd.forward_ad


def kernels_for(*tensors: Tensor) -> Any:
    """The module for functions of these tensors; see :mod:`~l0func.kernels.by_torch`.

    Machine code takes plain tensors in float32, float64 and int64. A compiler, a transform, a
    mode or autograd around this code must see torch operations. Inside a custom Function they do
    not look.

    Raises:
        RuntimeError: The user's choice is ``"compiled"``, and nothing compiles for this device.
    """
    if choice.chosen() == "eager" or _is_watched():
        return by_torch
    on_cpu = tensors[0].is_cpu
    for tensor in tensors:
        if not (_has_plain_values(tensor) and (tensor.is_cpu if on_cpu else tensor.is_cuda)):
            return by_torch
    compiler = "numba" if on_cpu else "triton"
    found = choice.machine_code(compiler)
    return by_torch if found is None else _with_torch_behind(compiler, found.kernels)


def _is_watched() -> bool:
    """Whether something around this code records torch operations."""
    modes, tracing = _core._len_torch_dispatch_stack(), _core._get_tracing_state()
    return modes > 0 or tracing is not None or compiling()


def _has_plain_values(tensor: Any) -> bool:
    """Whether the tensor is values in memory and nothing else."""
    return (
        type(tensor) in _PLAIN_TYPES
        and tensor.dtype in _PLAIN_DTYPES
        and tensor.layout is torch.strided
        and not _core._functorch.is_functorch_wrapped_tensor(tensor)
        and not tensor.is_neg()
        and not _is_zerotensor(tensor)
        and not (tensor.requires_grad and torch.is_grad_enabled())
        and (_forward_mode._current_level < 0 or not _has_tangent(tensor))
    )


def _has_tangent(tensor: Tensor) -> bool:
    return _forward_mode.unpack_dual(tensor).tangent is not None


@cache
def _with_torch_behind(compiler: Compiler, kernels: Any) -> SimpleNamespace:
    """The compiler's kernels; torch's of the same name run where one can't be built."""

    def guarded(name: str) -> Callable[..., Any]:
        fast, slow = getattr(kernels, name), getattr(by_torch, name)

        def run(*args: Any) -> Any:
            try:
                # Modes for torch functions have nothing to change in a kernel's own arrays.
                with _core.DisableTorchFunction():
                    return fast(*args)
            except Unbuilt as error:
                choice.give_up(compiler, error.reason)
            return slow(*args)

        return run

    return SimpleNamespace(**{name: guarded(name) for name in kernels.__all__})
