"""Whether a call's arguments fit a gated parameter; nothing broadcasts in silence.

Where a dimension, a size or a dtype does not fit, a handler returns NotImplemented, and torch's
own function refuses the call. torch.vmap broadcasts and promotes what is added at the end, so that
is refused here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from l0func.engine.parameter import GatedParameter
from l0func.internal.context import has_one_dtype
from l0func.internal.interception import function_name


def has_dims(input: GatedParameter, *dims: Any) -> bool:
    """Whether these are numbers of dimensions."""
    rank = input.dim()
    return all(isinstance(dim, int) and -rank <= dim < rank for dim in dims)


def check_bias(function: Any, bias: Any, size: int, weight: Any) -> None:
    """Refuse a bias that is not a vector of this size, or has another dtype than the weight.

    Raises:
        ValueError: The bias has another shape or dtype.
    """
    if bias is not None and tuple(bias.shape) != (size,):
        raise ValueError(
            f"{function_name(function)} takes a bias of shape ({size},) for this weight; got "
            f"{tuple(bias.shape)}."
        )
    _check_dtype(function, bias, weight)


def check_added(function: Any, added: Any, wanted: Sequence[int], product: Any) -> None:
    """Refuse a tensor that is larger than the product to which it is added, or of another dtype.

    Raises:
        ValueError: The tensor does not expand to the product's shape, or has another dtype.
    """
    shape = tuple(added.shape)
    if not _expands(shape, wanted):
        raise ValueError(
            f"{function_name(function)} adds a tensor that expands to the product's shape "
            f"{tuple(wanted)}; got {shape}."
        )
    _check_dtype(function, added, product)


def _check_dtype(function: Any, added: Any, product: Any) -> None:
    if not has_one_dtype(added, product):
        raise ValueError(
            f"{function_name(function)} adds a tensor of the product's dtype {product.dtype}; got "
            f"{added.dtype}."
        )


def _expands(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether a tensor of a shape expands to another one, in code that compilers follow."""
    new = len(wanted) - len(shape)
    if new < 0:
        return False
    for dim, size in enumerate(shape):
        if size not in (1, wanted[new + dim]):
            return False
    return True
