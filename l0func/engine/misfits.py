"""torch's refusals of sizes and dtypes beside a gated parameter, with the parameter's name.

Inside of a map torch counts the rows among the sizes, and names no parameter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from l0func.engine.row_errors import in_words_of_rows
from l0func.internal.interception import function_name
from l0func.internal.source_line import calling_line

_OF_SIZES = re.compile(r"size|shape|channels|dimension")
_OF_DTYPES = re.compile(r"dtype|scalar type|type \(")


class Named(NamedTuple):
    """A gated parameter in a call."""

    path: str
    shape: tuple[int, ...]
    dtype: torch.dtype


def in_words_of_parameters(
    error: RuntimeError, func: object, gated: Sequence[Named], others: Sequence[Tensor]
) -> ValueError | None:
    """The error to raise instead, if a size or dtype that does not fit explains it; else None.

    Args:
        error: What torch raised.
        func: The torch function.
        gated: The gated parameters among its arguments.
        others: The other tensors there.
    """
    text = " ".join(str(error).split())
    is_plain = type(error) is RuntimeError and in_words_of_rows(error) is None
    if not (is_plain and others and (_OF_SIZES.search(text) or _OF_DTYPES.search(text))):
        return None
    names = " and ".join([f"{p.path!r} of shape {p.shape} and {p.dtype}" for p in gated])
    beside = ", ".join([f"shape {tuple(t.shape)} and {t.dtype}" for t in others])
    return ValueError(
        f"{function_name(func)} cannot take the parameter {names} beside {beside}"
        f"{calling_line()}.{_what_differs(text, gated[0].dtype, others)} (torch: {text[:160]})"
    )


def _what_differs(text: str, dtype: torch.dtype, others: Sequence[Tensor]) -> str:
    """What does not fit, and what to do where the dtypes differ."""
    if not _OF_DTYPES.search(text):
        return " The sizes do not fit; a row of a batch stands there as a batch of one."
    if all(t.dtype == dtype for t in others):
        return ""
    return f" The dtypes differ: pass the input as x.to({dtype})."
