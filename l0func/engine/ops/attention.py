"""Multi-head attention on gated parameters, as products: a packed projection stays gated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.nn import functional as F

from l0func.pure.written_out.table import REPLACEMENTS

HANDLERS: dict[Any, Callable[..., Any]] = {
    F.multi_head_attention_forward: REPLACEMENTS[F.multi_head_attention_forward].run,
}
