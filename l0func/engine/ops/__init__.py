"""How one operation of torch runs on a gated parameter, one family of operations a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from l0func.engine.ops import attention, conv, embedding, linear, recurrent, views

RULES: dict[Any, Callable[..., Any]] = {
    **linear.RULES,
    **conv.RULES,
    **embedding.RULES,
    **attention.RULES,
    **recurrent.RULES,
    **views.RULES,
}
"""The rule of every operation that has one; a rule may give NotImplemented, and the operation runs
on the product.
"""
