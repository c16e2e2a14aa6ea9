"""Kinds of tensors: those that gates can scale, their real dtypes, and their squares."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from l0func.internal.context import known_values
from l0func.internal.sharding import is_dtensor
from l0func.internal.untyped import loose

_REAL = {
    torch.complex32: torch.float16,
    torch.complex64: torch.float32,
    torch.complex128: torch.float64,
}
_SCALED = (torch.float16, torch.bfloat16, torch.float32, torch.float64, *_REAL)


def real_dtype(dtype: torch.dtype, /) -> torch.dtype:
    """The dtype for real factors of a tensor: for a complex dtype, that of its real part."""
    return _REAL.get(dtype, dtype)


def is_wide(dtype: torch.dtype, /) -> bool:
    """Whether a number has 64 bits for its real part."""
    return real_dtype(dtype) == torch.float64


def check_can_be_gated(path: str, tensor: Tensor, /, *, multiplied: bool) -> None:
    """Refuse a tensor without dense storage; if a gate multiplies it, also one without products.

    Raises:
        ValueError: The tensor is sparse, nested or in a library's own layout; or a gate multiplies
            integers, or floats of 8 bits.
    """
    form = other_form(tensor)
    if form is not None:
        raise ValueError(
            f"A gate acts on the entries of a dense tensor; {path!r} is {form}. Convert it before "
            f"make_functional, or exclude it: {{{path!r}: None}}."
        )
    if multiplied and tensor.dtype not in _SCALED:
        raise ValueError(
            f"A gate scales floating-point or complex numbers of at least 16 bits; {path!r} is "
            f"{tensor.dtype}. Exclude it: {{{path!r}: None}}; or convert it to a wider float."
        )


def check_has_shape(path: str, tensor: Tensor, /) -> None:
    """Refuse a nested tensor: its parts have shapes, and it has none.

    Raises:
        ValueError: The tensor is nested.
    """
    if tensor.is_nested:
        raise ValueError(
            f"Parameters are tensors with a shape; {path!r} is a nested tensor, with a shape for "
            "each part. Make a parameter of each part, or pad it with to_padded_tensor."
        )


def check_has_values(tensors: Mapping[str, Tensor], caller: str, /) -> None:
    """Refuse tensors on the meta device.

    Args:
        tensors: ``{name: tensor}``; an error shows the name.
        caller: The function that needs values, for the message.

    Raises:
        ValueError: A tensor is on the meta device.
    """
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise ValueError(
                f"{caller} reads values, and {name!r} is on the meta device, which holds none. "
                "Give the network its values first, as by l0func.init_params or by loading them."
            )


def other_form(tensor: Tensor, /) -> str | None:
    """A text for a tensor that is not a dense one, with a way to make it dense; or None."""
    if tensor.is_nested:
        return "a nested tensor (to_padded_tensor makes it dense)"
    if tensor.is_quantized:
        return f"a quantised tensor of {tensor.dtype} (dequantize makes it dense)"
    if tensor.layout != torch.strided:
        return f"a tensor of layout {tensor.layout} (to_dense makes it dense)"
    return None


def squares(tensor: Tensor, /) -> Tensor:
    r"""The squared absolute values :math:`|w|^2`, real, differentiable, in float32 or float64.

    For a tensor in another form than a dense one: the squares of the values that it stores.
    """
    if tensor.layout != torch.strided or tensor.is_quantized:
        tensor = _stored_values(tensor)
    # Wider than a short float: its squares underflow, and their sum overflows.
    wide = torch.float64 if is_wide(tensor.dtype) else torch.float32
    if tensor.is_complex():
        return tensor.real.to(wide) ** 2 + tensor.imag.to(wide) ** 2
    return tensor.to(wide) ** 2


def not_finite(tensor: Tensor, /) -> Tensor:
    """Which of the stored entries are NaN or infinite."""
    if tensor.layout != torch.strided or tensor.is_quantized:
        tensor = _stored_values(tensor)
    wide = tensor if tensor.dtype in _SCALED else tensor.to(torch.float32)
    return ~wide.isfinite()


def has_finite_sum(tensor: Tensor, /) -> bool:
    """Whether the sum of all entries is known and finite, and so all entries are finite.

    It is one pass where a count takes three. False tells nothing.
    """
    if is_dtensor(tensor) or tensor.layout != torch.strided:
        return False
    if tensor.dtype not in (torch.float32, torch.float64):
        return False
    return bool(known_values(tensor.sum().isfinite()))


def _stored_values(tensor: Tensor) -> Tensor:
    if tensor.is_quantized:
        return loose(tensor).dequantize()
    if tensor.layout == torch.sparse_coo:
        return tensor.coalesce().values()
    if tensor.is_mkldnn:
        return loose(tensor).to_dense()
    return tensor.values()
