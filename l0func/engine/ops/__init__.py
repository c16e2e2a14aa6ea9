"""How one operation of torch runs on a gated parameter, one family of operations a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from l0func.engine.ops import attention, conv, embedding, linear, recurrent, views

HANDLERS: dict[Any, Callable[..., Any]] = {
    **linear.HANDLERS,
    **conv.HANDLERS,
    **embedding.HANDLERS,
    **attention.HANDLERS,
    **recurrent.HANDLERS,
    **views.HANDLERS,
}
"""The rule of every operation that has one; a rule may give NotImplemented, and the operation runs
on the product.
"""
