"""Handlers for functions in place that torch.vmap runs wrong or not at all; ``Keyed`` uses them.

vmap gives a tensor in a row a shape of its own, and some functions change only what lies behind.
``Tensor.set_`` is one more, but torch shows it to no context.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from l0func.internal.context import is_mapped_here, is_mapped_with
from l0func.internal.interception import function_name
from l0func.internal.source_line import calling_line
from l0func.internal.untyped import TENSOR, untyped
from l0func.pure.writes import checked_write


def is_of_row(mode: Any, target: Any) -> bool:
    """Whether every row has its own key, and its own values in the tensor."""
    key: Tensor | None = mode.key
    if key is None or type(target) is not Tensor or not is_mapped_here(key):
        return False
    return is_mapped_with(key, [target])


def refused_in_row(func: Any, advice: str) -> ValueError:
    """The error for a function in place on a tensor with values for each row."""
    return ValueError(
        f"{function_name(func)} changes a tensor of a single row in place{calling_line()}, and "
        "torch.vmap cannot: each example has its own mask, and the module runs once for all. "
        f"{advice}"
    )


def _write_refusal(advice: str) -> Callable[..., Any]:
    """A handler that refuses a row's tensor, and runs the function on any other."""

    def refuse(mode: Any, func: Any, /, *args: Any, **named: Any) -> Any:
        if args and is_of_row(mode, args[0]):
            raise refused_in_row(func, advice)
        return checked_write(mode, func, *args, **named)

    return refuse


def _resize_as(
    mode: Any, func: Any, /, input: Tensor, the_template: Tensor, **named: Any
) -> Tensor:
    if is_of_row(mode, input):
        return input.resize_(the_template.shape, **named)
    return func(input, the_template, **named)


_NUMBERS = "Compute with torch's own functions, such as torch.where or torch.maximum."
ROW_WRITE_HANDLERS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys([TENSOR.resize_as_, untyped.resize_as_], _resize_as),
    **dict.fromkeys(
        [TENSOR.as_strided_, untyped.as_strided_],
        _write_refusal("Write x = x.as_strided(size, stride)."),
    ),
    **dict.fromkeys([TENSOR.detach_, untyped.detach_], _write_refusal("Write x = x.detach().")),
    TENSOR.share_memory_: _write_refusal("Share the output, after the call."),
    **dict.fromkeys([TENSOR.apply_, TENSOR.map_, TENSOR.map2_], _write_refusal(_NUMBERS)),
}
