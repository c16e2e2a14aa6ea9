"""What may stand between the library and a tensor's values: a compiler, or a torch.func transform."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from l0func.internal.untyped import untyped

_COMPILES = hasattr(torch.compiler, "is_compiling")
_forward_ad: Any = import_module("torch.autograd.forward_ad")
_DYNAMO: Any = None if _COMPILES else import_module("torch._dynamo")


def compiling() -> bool:
    """Whether this code is being traced by torch.compile or torch.export.

    Raises:
        RuntimeError: It is, by torch 2.1, whose compiler follows neither vmap nor tensor
            subclasses.
    """
    if _COMPILES:
        return torch.compiler.is_compiling()
    if _DYNAMO.is_compiling():
        raise RuntimeError(
            f"l0func compiles on torch 2.2 and later; this is {torch.__version__}. Run it eagerly."
        )
    return False


def compiles() -> bool:
    """Whether this torch has the compiler and the custom operators that the library uses."""
    return _COMPILES and hasattr(untyped.library, "custom_op")


def is_mapped(tensor: Tensor, /) -> bool:
    """Whether a vmap around this code holds a batch of values where the tensor shows one."""
    functorch: Any = untyped._C._functorch
    if compiling():
        # The compiler follows this question and not the next.
        return functorch.is_batchedtensor(tensor)
    return _level(tensor) > 0


def is_mapped_with(tensor: Tensor, others: Iterable[Tensor], /) -> bool:
    """Whether the innermost vmap that holds a batch of the tensor holds one of each other; False
    where a compiler hides it.
    """
    if compiling():
        return False
    level = _level(tensor)
    return level > 0 and all(_level(other) == level for other in others)


def _level(tensor: Tensor) -> int:
    functorch: Any = untyped._C._functorch
    while functorch.is_gradtrackingtensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return functorch.maybe_get_level(tensor) if functorch.is_batchedtensor(tensor) else 0


def forward_rule(rule: Callable[..., Any], /) -> Any:
    """A ``jvp`` rule of an autograd.Function, given as ``rule(ctx, saved tensors, *tangents)``,
    that derives again.

    torch switches forward mode off while such a rule runs, and a derivative of a derivative
    becomes 0 without a word.
    """

    def jvp(ctx: Any, *tangents: Any) -> Any:
        with _forward_ad._set_fwd_grad_enabled(True):
            return rule(
                ctx, [_primal(t) for t in ctx.saved_tensors], *(_primal(t) for t in tangents)
            )

    return staticmethod(jvp)


def _primal(tensor: Any) -> Any:
    return _forward_ad.unpack_dual(tensor).primal if isinstance(tensor, Tensor) else tensor


def known_values(tensor: Any, /) -> Any:
    """The tensor's values as nested lists, or None where a transform, a compiler or a fake tensor
    hides them.
    """
    if compiling() or type(tensor) is not Tensor or tensor.is_meta:
        return None
    untyped: Any = tensor
    try:
        return untyped.tolist()
    except RuntimeError:
        # vmap's way to say that there is no one value.
        return None


def result_dtype(x: Tensor, weight: Tensor, /) -> tuple[torch.dtype, torch.dtype]:
    """The dtype of a product of two tensors, autocast included; and the one to compute it in,
    which is never short.
    """
    autocast = _autocast(x.device.type)
    dtype = torch.promote_types(x.dtype, weight.dtype) if autocast is None else autocast
    return dtype, torch.promote_types(dtype, torch.float32)


def _autocast(kind: str) -> torch.dtype | None:
    """What autocast makes of products on a kind of device, if it is on."""
    if hasattr(torch, "get_autocast_dtype"):
        return untyped.get_autocast_dtype(kind) if untyped.is_autocast_enabled(kind) else None
    # torch 2.1 to 2.3 ask for each device by name.
    if kind == "cpu":
        return untyped.get_autocast_cpu_dtype() if untyped.is_autocast_cpu_enabled() else None
    return untyped.get_autocast_gpu_dtype() if untyped.is_autocast_enabled() else None
