"""Questions about a call's context: is a compiler, a vmap or autocast active around it?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from l0func.internal.compiler_import import graph_constant, once_imported
from l0func.internal.untyped import loose, untyped

_VERSION = tuple(map(int, torch.__version__.split(".")[:2]))
_COMPILES = _VERSION >= (2, 9)
FOLLOWS_OPTREE = _VERSION >= (2, 10)
"""Whether this torch's compiler traces optree; every one knows torch's own registry of pytrees."""


class _OldCompiler:
    """The compiler's module in torch 2.1, once it is imported."""

    module: Any = None

    def remember(self, module: Any) -> None:
        self.module = module


_OLD = _OldCompiler()
if not hasattr(torch.compiler, "is_compiling"):
    once_imported(_OLD.remember)


def _traced_by_oldest() -> bool:
    return _OLD.module is not None and _OLD.module.is_compiling()


_exported: Callable[[], bool] = getattr(torch.compiler, "is_compiling", _traced_by_oldest)

# torch 2.1 and 2.2 have one question for the compiler and for export.
traced_by_dynamo: Callable[[], bool] = getattr(torch.compiler, "is_dynamo_compiling", _exported)
"""Whether torch.compile is tracing this code; it follows Python, not only torch functions."""


_by_export: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)


@graph_constant
def _refuse_compiler() -> None:
    """Raise while the compiler looks: an error in traced code would reach the user as its own."""
    raise RuntimeError(
        f"l0func compiles on torch 2.9 and later; this is {torch.__version__}. Run it eagerly: "
        "leave its calls out of torch.compile."
    )


def compiling() -> bool:
    """Whether torch.compile or torch.export is tracing this code.

    Raises:
        RuntimeError: The compiler of a torch before 2.9 is tracing. It follows no function mode
            (before 2.6), or cannot tell what a vmap maps. Torch 2.1 shows its own error.
    """
    if _COMPILES:
        return torch.compiler.is_compiling()
    if traced_by_dynamo():
        _refuse_compiler()
    return _exported()


def exporting() -> bool:
    """Whether torch.export is tracing this code."""
    # Both are torch's own functions: behind a graph break ``compiling`` is compiled alone, and
    # says yes to eager code.
    return _exported() and not traced_by_dynamo()


def recording() -> bool:
    """Whether torch.export or torch.jit.trace records this code: its program runs no Python."""
    if compiling():
        return _by_export() or not traced_by_dynamo()
    return untyped.jit.is_tracing()


def compiles() -> bool:
    """Whether the library runs under this torch's compiler."""
    return _COMPILES


def has_custom_operators() -> bool:
    """Whether this torch has operators made in Python, which nothing looks into."""
    return hasattr(untyped.library, "custom_op")


def is_mapped(tensor: Tensor, /) -> bool:
    """Whether a vmap around this code maps the tensor, so that it holds a batch of values."""
    functorch: Any = untyped._C._functorch
    if compiling():
        # The compiler can trace this function, but not those in _vmap_level.
        return functorch.is_batchedtensor(tensor)
    return _vmap_level(tensor) > 0


def is_mapped_with(tensor: Tensor, others: Iterable[Tensor], /) -> bool:
    """Whether the innermost vmap over the tensor also maps all others.

    The answer is always False inside a compiler, because it hides the levels of vmap.
    """
    if compiling():
        return False
    level = _vmap_level(tensor)
    return level > 0 and all(_vmap_level(other) == level for other in others)


def _vmap_level(tensor: Tensor) -> int:
    """The level of the innermost vmap over the tensor; 0 without one."""
    functorch: Any = untyped._C._functorch
    while functorch.is_gradtrackingtensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return functorch.maybe_get_level(tensor) if functorch.is_batchedtensor(tensor) else 0


def is_mapped_here(tensor: Tensor, /) -> bool:
    """Whether a vmap maps the tensor, and this code runs inside of that vmap.

    The rule of a custom Function for vmap runs outside of the vmap that it is a rule for.
    """
    if compiling():
        return is_mapped(tensor)
    functorch: Any = untyped._C._functorch
    interpreter = functorch.peek_interpreter_stack()
    return interpreter is not None and 0 < _vmap_level(tensor) <= interpreter.level()


def innermost_is_vmap() -> bool:
    """Whether the innermost transform of torch.func around this code is a vmap."""
    functorch: Any = untyped._C._functorch
    interpreter = functorch.peek_interpreter_stack()
    return interpreter is not None and interpreter.key() == functorch.TransformType.Vmap


def is_in_vmap_with_draws_apart() -> bool:
    """Whether a torch.vmap around this code has not asked for ``randomness="same"``.

    Its rows would then draw numbers of their own, or nothing at all.
    """
    functorch: Any = untyped._C._functorch
    levels: list[Any] = []
    try:
        # Torch 2.1 lists no levels; it shows the innermost one.
        while (interpreter := functorch.peek_interpreter_stack()) is not None:
            if interpreter.key() == functorch.TransformType.Vmap:
                randomness = functorch.CVmapInterpreterPtr(interpreter).randomness()
                if randomness != functorch.RandomnessType.Same:
                    return True
            levels.append(functorch.pop_dynamic_layer_stack())
        return False
    finally:
        for level in reversed(levels):
            functorch.push_dynamic_layer_stack(level)


def known_values(tensor: Any, /) -> Any:
    """A tensor's values as Python numbers, or None if they cannot be known.

    A transform, a compiler, a fake tensor and the meta device hide values.

    Args:
        tensor: A plain tensor; a subclass or another object has no known values.

    Returns:
        A number, nested lists of numbers, or None.
    """
    if compiling() or type(tensor) is not Tensor or tensor.is_meta:
        return None
    try:
        return loose(tensor).tolist()
    except RuntimeError:
        # A tensor under vmap has no single value, and its tolist() raises.
        return None


def result_dtype(x: Tensor, weight: Tensor, /) -> tuple[torch.dtype, torch.dtype]:
    """The dtype of a product of two tensors, and the dtype to compute it in.

    The first follows autocast; the second is at least as precise as float32.
    """
    autocast = autocast_dtype(x.device.type)
    dtype = torch.promote_types(x.dtype, weight.dtype)
    # As torch's autocast, which leaves complex numbers and float64 alone.
    if autocast is not None and not dtype.is_complex and dtype != torch.float64:
        dtype = autocast
    return dtype, torch.promote_types(dtype, torch.float32)


def has_one_dtype(*tensors: Any) -> bool:
    """Whether torch multiplies and adds tensors of these dtypes; each may be gated, or None.

    Autocast casts all but float64, integers and complex numbers.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    dtype = given[0].dtype
    if all([tensor.dtype == dtype for tensor in given]):
        return True
    if autocast_dtype(given[0].device.type) is None:
        return False
    return all([t.dtype.is_floating_point and t.dtype != torch.float64 for t in given])


def autocast_dtype(kind: str, /) -> torch.dtype | None:
    """Autocast's dtype for products on this kind of device, or None if autocast is off."""
    if hasattr(torch, "get_autocast_dtype"):
        return untyped.get_autocast_dtype(kind) if untyped.is_autocast_enabled(kind) else None
    # torch 2.1 to 2.3 ask for each device by name.
    if kind == "cpu":
        return untyped.get_autocast_cpu_dtype() if untyped.is_autocast_cpu_enabled() else None
    return untyped.get_autocast_gpu_dtype() if untyped.is_autocast_enabled() else None


def without_autocast(kind: str, /) -> AbstractContextManager[Any]:
    """A context in which autocast is off for this kind of device."""
    return torch.autocast(kind, enabled=False)
