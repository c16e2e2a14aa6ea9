"""Multi-head attention as the products that it is, so that a packed projection stays gated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from l0func.pure.written_out.attention import multi_head_attention_forward


def _without_dropout(x: Tensor, p: float) -> Tensor:
    raise AssertionError("A dropout that a key did not answer.")


def multi_head_attention(*args: Any, **named: Any) -> Any:
    """``F.multi_head_attention_forward``."""
    # Dropout that is active was answered by the key; what comes here has none.
    return multi_head_attention_forward(
        *args[:13], **{**named, "training": False}, dropout=_without_dropout
    )


HANDLERS: dict[Any, Callable[..., Any]] = {F.multi_head_attention_forward: multi_head_attention}
