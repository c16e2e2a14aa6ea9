"""A context for compiled calls; it runs handlers that use gated parameters in torch functions.

``gated`` enters it while torch.compile traces a call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from l0func.engine.ops import attention, recurrent
from l0func.engine.parameter import holds_gated
from l0func.internal.interception import Interception


class Nested(Interception):
    """A context that runs these handlers before torch dispatches to the gated parameter.

    Inside a tensor's own ``__torch_function__`` the compiler dispatches to no tensor again, and
    would compute with the NaN that a gated parameter holds as its storage. Inside a mode's
    ``__torch_function__`` it does.
    """

    def __init__(self) -> None:
        super().__init__(_NESTED_HANDLERS)


def _if_gated(handler: Callable[..., Any]) -> Callable[..., Any]:
    def if_gated(mode: Nested, func: Any, *args: Any, **kwargs: Any) -> Any:
        result = handler(*args, **kwargs) if holds_gated(args, kwargs) else NotImplemented
        return func(*args, **kwargs) if result is NotImplemented else result

    return if_gated


_NESTED_HANDLERS: dict[Any, Callable[..., Any]] = {
    func: _if_gated(handler)
    for func, handler in {**attention.HANDLERS, **recurrent.HANDLERS}.items()
}
