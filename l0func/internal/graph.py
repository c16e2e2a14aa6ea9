"""The graph that autograd keeps behind a tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor


def nodes_behind(tensors: Iterable[Tensor], /) -> Iterator[Any]:
    """Every node of autograd's graph behind some tensors, each once."""
    to_see: list[Any] = [t.grad_fn for t in tensors]
    seen: set[Any] = set()
    while to_see:
        node = to_see.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        to_see.extend(following for following, _ in node.next_functions)
