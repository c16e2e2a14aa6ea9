"""Handlers: how each torch operation runs on a gated parameter, one family in a file.

A handler takes its torch function's arguments and returns the result. If it returns
NotImplemented, the operation runs on the product that the gated parameter stands for.
"""

from __future__ import annotations

from typing import Any

from l0func.engine.ops import (
    attention,
    conv,
    conv_transpose,
    embedding,
    linear,
    recurrent,
    reshape,
    slices,
    views,
)
from l0func.engine.parameter import Handler

HANDLERS: dict[Any, Handler] = {
    **linear.HANDLERS,
    **conv.HANDLERS,
    **conv_transpose.HANDLERS,
    **embedding.HANDLERS,
    **attention.HANDLERS,
    **recurrent.HANDLERS,
    **views.HANDLERS,
    **slices.HANDLERS,
    **reshape.HANDLERS,
}
"""``{torch function: handler}`` from all files."""
