"""Whether a call's arguments fit a gated parameter; nothing broadcasts in silence.

Where a dimension or a size does not fit, a handler returns NotImplemented, and torch's own
function refuses the call. torch.vmap broadcasts what is added at the end, so that is refused here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from l0func.engine.parameter import GatedParameter
from l0func.internal.interception import function_name


def has_dims(input: GatedParameter, *dims: Any) -> bool:
    """Whether these are numbers of dimensions."""
    rank = input.dim()
    return all(isinstance(dim, int) and -rank <= dim < rank for dim in dims)


def check_bias(function: Any, bias: Any, size: int) -> None:
    """Refuse a bias that is not a vector of this size.

    Raises:
        ValueError: The bias has another shape.
    """
    if bias is not None and tuple(bias.shape) != (size,):
        raise ValueError(
            f"{function_name(function)} takes a bias of shape ({size},) for this weight; got "
            f"{tuple(bias.shape)}."
        )


def check_added(function: Any, added: Any, wanted: Sequence[int]) -> None:
    """Refuse a tensor that is larger than the product to which it is added.

    Raises:
        ValueError: The tensor does not expand to the product's shape.
    """
    shape = tuple(added.shape)
    if not _expands(shape, wanted):
        raise ValueError(
            f"{function_name(function)} adds a tensor that expands to the product's shape "
            f"{tuple(wanted)}; got {shape}."
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
