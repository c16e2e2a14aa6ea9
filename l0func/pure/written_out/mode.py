"""A context that runs torch functions written out; a module's trace runs inside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from l0func.internal.interception import Interception
from l0func.pure.written_out.table import REPLACEMENTS, Replacement


class WrittenOut(Interception):
    """A context with attention, recurrent layers and the like as plain products.

    A trace or a count follows the products; it cannot see into torch's fused functions. Packed
    sequences and bags with offsets stay as they are.
    """

    def __init__(self) -> None:
        super().__init__(WRITTEN_OUT_HANDLERS)


def _written_out(replacement: Replacement) -> Callable[..., Any]:
    run = replacement.run

    def handler(mode: WrittenOut, func: Any, *args: Any, **named: Any) -> Any:
        result = run(*args, **named)
        return func(*args, **named) if result is NotImplemented else result

    return handler


def _embedding_bag(
    mode: WrittenOut, func: Any, /, input: Tensor, *args: Any, **named: Any
) -> Tensor:
    has_offsets = input.dim() != 2
    if has_offsets:
        return func(input, *args, **named)
    return REPLACEMENTS[F.embedding_bag].run(input, *args, **named)


WRITTEN_OUT_HANDLERS: dict[Any, Callable[..., Any]] = {
    func: _written_out(replacement) for func, replacement in REPLACEMENTS.items()
}
WRITTEN_OUT_HANDLERS[F.embedding_bag] = _embedding_bag
