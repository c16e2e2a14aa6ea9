"""Rules that call torch on gated parameters again, for a compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from l0func.engine.ops import attention, recurrent
from l0func.engine.parameter import holds_gated
from l0func.internal.interception import Interception


def _if_gated(rule: Callable[..., Any]) -> Callable[..., Any]:
    def answer(mode: Interception, func: Any, *args: Any, **kwargs: Any) -> Any:
        result = rule(*args, **kwargs) if holds_gated(args, kwargs) else NotImplemented
        return func(*args, **kwargs) if result is NotImplemented else result

    return answer


ANSWERS = {
    func: _if_gated(rule) for func, rule in {**attention.HANDLERS, **recurrent.HANDLERS}.items()
}


class Nested(Interception):
    """A context in which such rules run as torch runs them.

    Within a tensor's own ``__torch_function__`` a compiler dispatches to no tensor again, and the
    NaN that a stand-in holds would come out; within that of a mode it does.
    """

    def __init__(self) -> None:
        super().__init__(ANSWERS)
