"""torch's refusal of a norm whose running statistics no vmap maps, in words of buffers."""

from __future__ import annotations

import re

from l0func.internal import tree
from l0func.internal.context import is_mapped
from l0func.internal.tree import Tree

_TEXT = re.compile(r"running_mean or running_var, .* were not batched")
_NAMED_AT_MOST = 3


def in_words_of_buffers(error: Exception, buffers: Tree, /) -> ValueError | None:
    """The error to raise instead, or None if it is about something else.

    Args:
        error: What torch raised.
        buffers: The call's buffers.
    """
    if not _TEXT.search(str(error)):
        return None
    leaves = tree.leaves(buffers, "buffers")
    shared = [repr(p) for p, t in leaves.items() if not is_mapped(t)]
    named = ", ".join(shared[:_NAMED_AT_MOST]) + (", ..." if len(shared) > _NAMED_AT_MOST else "")
    return ValueError(
        "A norm in training mode updates its running statistics, and a vmap around this call has "
        f"one copy of them for all: {named}. Map the buffers too: "
        "{path: b.expand(n, *b.shape).clone() for path, b in buffers.items()} with 0 in in_dims, "
        "and take the new ones from with_buffers. For a mask of its own in every row call "
        "l0func.per_example; to evaluate, fn.eval()."
    )
