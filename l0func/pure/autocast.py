"""Autocast for rows: a mapped call comes out in the dtype that a plain call has.

torch's autocast acts below vmap. There a function such as ``F.linear`` is already a product and a
sum, and only the product is cast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from l0func.internal.context import autocast_dtype, without_autocast
from l0func.internal.untyped import TENSOR, untyped

Policy = Callable[[torch.dtype, Any, tuple[Any, ...], dict[str, Any]], Any]
"""``(autocast's dtype, function, arguments, keyword arguments)`` to the function's result."""


class Autocast(TorchFunctionMode):
    """A context that casts before a function reaches vmap, as torch casts without a vmap.

    It reads torch's own autocast at every call, so the module may switch autocast itself.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func not in CAST_FUNCTIONS:
            return func(*args, **kwargs)
        return as_autocast(func, func, args, kwargs)


def as_autocast(
    func: Any, run: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], /
) -> Any:
    """``run(*args, **kwargs)`` in place of a torch function, in the dtypes that autocast gives it.

    Args:
        func: The torch function.
        run: The same function, written in other torch functions.
        args: Its arguments.
        kwargs: Its keyword arguments.
    """
    if func not in CAST_FUNCTIONS:
        return run(*args, **kwargs)
    kind = _device_kind((*args, *kwargs.values()))
    dtype = autocast_dtype(kind) if kind in _POLICIES else None
    call = None if dtype is None else _POLICIES[kind].get(func)
    if dtype is None or call is None:
        return run(*args, **kwargs)
    return call(dtype, run, args, kwargs)


def _device_kind(values: Iterable[Any]) -> str:
    """The kind of the device of the first tensor, also in a list; empty without a tensor."""
    for value in values:
        if isinstance(value, Tensor):
            return value.device.type
        if type(value) in (tuple, list) and _device_kind(value):
            return _device_kind(value)
    return ""


def _shortened(dtype: torch.dtype, func: Any, args: Any, kwargs: Any) -> Any:
    """The function on arguments in autocast's dtype, with its result in that dtype."""
    # The result too: a handler of a gated parameter multiplies by masks in float32.
    return _cast(dtype, func(*_cast(dtype, args), **_cast_named(dtype, kwargs)))


def _on_cudnn(dtype: torch.dtype, func: Any, args: Any, kwargs: Any) -> Any:
    """A recurrent network on a card: cuDNN's have results in float16, also under bfloat16."""
    cudnn = untyped.backends.cudnn
    short = torch.float16 if cudnn.enabled and cudnn.is_available() else dtype
    return _with_short_results(short, func, args, kwargs)


def _with_short_results(dtype: torch.dtype, func: Any, args: Any, kwargs: Any) -> Any:
    """The function as it is, with its results in autocast's dtype."""
    return _cast(dtype, func(*args, **kwargs))


def _in_float32(dtype: torch.dtype, func: Any, args: Any, kwargs: Any) -> Any:
    """The function on arguments in float32."""
    return func(*_cast(torch.float32, args), **_cast_named(torch.float32, kwargs))


def _as_first(dtype: torch.dtype, func: Any, args: Any, kwargs: Any) -> Any:
    """The function as it is, with its result in the dtype of its first argument."""
    first = args[0] if args else kwargs["input"]
    return func(*args, **kwargs).to(first.dtype)


def _uncast(dtype: torch.dtype, func: Any, args: Any, kwargs: Any) -> Any:
    """The function without autocast, which does not act on it."""
    with without_autocast(_device_kind((*args, *kwargs.values()))):
        return func(*args, **kwargs)


def _in_widest(dtype: torch.dtype, func: Any, args: Any, kwargs: Any) -> Any:
    """The function on arguments in the widest of their dtypes."""
    given = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
    widest = torch.float32 if any(x.dtype == torch.float32 for x in given) else dtype
    return _uncast(dtype, func, _cast(widest, args), _cast_named(widest, kwargs))


def _lstm(dtype: torch.dtype, func: Any, args: Any, kwargs: Any) -> Any:
    """An LSTM on the CPU: torch's kernel shortens its results, and it knows no projections."""
    state = args[2] if isinstance(args[1], Tensor) else args[1]
    projects = state[0].shape[-1] != state[1].shape[-1]
    if projects or not untyped.backends.mkldnn.enabled:
        return func(*args, **kwargs)
    return _with_short_results(dtype, func, args, kwargs)


def _cast(dtype: torch.dtype, value: Any) -> Any:
    """Every float in an argument or a result in the dtype.

    As in torch's autocast, float64 stays. A gated parameter stays too.
    """
    if type(value) in (Tensor, torch.nn.Parameter):
        return value.to(dtype) if _is_eligible(value) else value
    if type(value) is tuple:
        return tuple([_cast(dtype, item) for item in cast("tuple[Any, ...]", value)])
    if type(value) is list:
        return [_cast(dtype, item) for item in cast("list[Any]", value)]
    return value


def _cast_named(dtype: torch.dtype, kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: _cast(dtype, value) for name, value in kwargs.items()}


def _is_eligible(x: Tensor) -> bool:
    return x.is_floating_point() and x.dtype != torch.float64


# Torch's lists for each kind of device, without those functions that a vmap leaves whole.
_MATRIX_PRODUCTS = (
    *(F.linear, F.conv1d, F.conv2d, F.conv3d, untyped.conv_tbc),
    *(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
    *(torch.matmul, TENSOR.matmul, TENSOR.__matmul__, TENSOR.__rmatmul__),
    *(torch.mm, TENSOR.mm, torch.bmm, TENSOR.bmm, torch.addmm, TENSOR.addmm),
    *(torch.addbmm, TENSOR.addbmm, torch.baddbmm, TENSOR.baddbmm),
    *(F.prelu, torch.prelu, TENSOR.prelu, F.scaled_dot_product_attention),
)
_LAYER_AND_GROUP_NORMS = (F.layer_norm, torch.layer_norm, F.group_norm, torch.group_norm)
_SOFTMAXES = (
    *(F.softmax, torch.softmax, TENSOR.softmax, F.softmin),
    *(F.log_softmax, torch.log_softmax, TENSOR.log_softmax),
)
_SUMS_OF_PRODUCTS = (
    *(untyped.tensordot, torch.inner, TENSOR.inner, F.bilinear),
    *(torch.cross, TENSOR.cross),
)
_VECTOR_PRODUCTS = (torch.mv, TENSOR.mv, torch.addmv, TENSOR.addmv)
_CELLS = (torch.lstm_cell, torch.gru_cell, torch.rnn_tanh_cell, torch.rnn_relu_cell)
_NETWORKS = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
_LOSSES = (
    *(F.binary_cross_entropy_with_logits, F.cosine_embedding_loss, F.cross_entropy),
    *(F.hinge_embedding_loss, F.margin_ranking_loss, F.poisson_nll_loss),
    *(F.soft_margin_loss, F.triplet_margin_loss, F.multi_margin_loss, F.kl_div, F.l1_loss),
)
_TRANSFORMS = tuple(
    getattr(untyped.fft, name)
    for name in ("fft", "ifft", "fft2", "ifft2", "fftn", "ifftn", "rfft", "irfft", "rfft2")
)


def _norms_by_squares() -> tuple[Any, ...]:
    """RMS norms, where this torch knows them and its autocast treats them."""
    has_kernel = untyped._C._dispatch_has_kernel_for_dispatch_key
    if not hasattr(F, "rms_norm") or not has_kernel("aten::rms_norm", "AutocastCUDA"):
        return ()
    return F.rms_norm, untyped.rms_norm


def _policies(entries: Mapping[Policy, Iterable[Any]]) -> dict[Any, Policy]:
    """``{torch function: how autocast treats it}``."""
    table: dict[Any, Policy] = {}
    for call, functions in entries.items():
        table.update(dict.fromkeys(functions, call))
    return table


_ON_CPU: dict[Policy, Iterable[Any]] = {
    _shortened: _MATRIX_PRODUCTS,
    _in_float32: (*_LOSSES, *_TRANSFORMS, torch.cdist),
    _uncast: (*_VECTOR_PRODUCTS, F.bilinear),
    _as_first: _LAYER_AND_GROUP_NORMS,
    _lstm: (torch.lstm,),
}
_ON_CUDA: dict[Policy, Iterable[Any]] = {
    _shortened: (*_MATRIX_PRODUCTS, *_VECTOR_PRODUCTS, *_CELLS, untyped.linalg.vecdot),
    _on_cudnn: _NETWORKS,
    _in_float32: (
        *(*_LOSSES, *_LAYER_AND_GROUP_NORMS, *_SOFTMAXES, torch.cdist),
        *_norms_by_squares(),
    ),
    _in_widest: _SUMS_OF_PRODUCTS,
}
_POLICIES = {"cpu": _policies(_ON_CPU), "cuda": _policies(_ON_CUDA)}
CAST_FUNCTIONS = frozenset(_POLICIES["cpu"]) | frozenset(_POLICIES["cuda"])
"""The functions that autocast may treat; all others run as they are."""
