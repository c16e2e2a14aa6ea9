"""What the name of a module's number says: whether it counts heads, or the width of something."""

from __future__ import annotations

import re
from typing import Literal

Meaning = Literal["share", "inputs", "outputs", "inner", "width", "else", "unknown"]
"""What a number counts.

A share of a packed tensor, such as its heads or the size of a split; inputs, outputs or inner
units; a width that may be any of these; or something else.
"""

_HEAD_SIZES = frozenset(
    {"d_kv", "d_k", "d_v", "d_head", "dhead", "headdim", "key_value_proj_dim", "kv_channels"}
)
_SIZES = frozenset({"dim", "size", "width", "channels", "features"})
_HEADS = frozenset({"heads", "nhead", "nheads"})
_OUTPUTS = frozenset({"nf", "out", "output", "outputs"})
_INPUTS = frozenset({"nx", "in", "input", "inputs"})
_INNER = frozenset({"inner", "all", "intermediate", "ffn", "ff", "mlp", "expanded"})
_WIDTHS = _SIZES | {
    "hidden",
    "units",
    "planes",
    "filters",
    "neurons",
    "model",
    "embed",
    "embedding",
}
_NO_WIDTHS = frozenset(
    """
    bucket buckets position positions seq sequence len length vocab vocabulary patch patches image
    kernel stride padding dilation layer layers idx index id token tokens max distance window group
    groups chunk class classes label labels block blocks depth rank steps step time batch scale
    """.split()
)


def meaning(name: str) -> Meaning:
    """What a number counts, by its name.

    A head's own size is "else": whole heads go, and their size stays.

    Args:
        name: The attribute's name, without the path to it.
    """
    words = _words(name)
    if is_head_size(name):
        return "else"
    if _HEADS & set(words[-1:]) or words in (["n", "head"], ["num", "head"]):
        return "share"
    if "split" in words:
        return "share"
    if _NO_WIDTHS & set(words):
        return "else"
    if _OUTPUTS & set(words[:1]):
        return "outputs"
    if _INPUTS & set(words[:1]):
        return "inputs"
    if _INNER & set(words):
        return "inner"
    return "width" if _WIDTHS & set(words) else "unknown"


def is_head_size(name: str) -> bool:
    """Whether a number is the size of one head, by its name."""
    words = _words(name)
    if "_".join(words) in _HEAD_SIZES:
        return True
    has_head = "head" in words or "heads" in words
    is_of_one = "all" not in words and "total" not in words
    return has_head and is_of_one and bool(_SIZES & set(words) or "per" in words)


def _words(name: str) -> list[str]:
    """The words of a name in snake case or camel case."""
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return snake.lower().strip("_").split("_")
