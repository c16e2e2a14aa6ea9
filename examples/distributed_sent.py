"""Bytes that a rank holds and sends, for distributed.py."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

HOMES = ("c10d", "_c10d_functional")
"""Where torch has its collectives, beside functions that wait or wrap."""
VERBS = ("reduce", "gather", "scatter", "broadcast", "alltoall", "all_to_all", "send")


class Sent(TorchDispatchMode):
    """Counts the collectives that run under it, and the bytes that this rank puts into them.

    What goes over the wire depends on the algorithm: a ring of n ranks sends 2(n-1)/n of the bytes
    of an all-reduce, (n-1)/n of those of a reduce-scatter, and n-1 times those of an all-gather.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if DTensor in types:
            return NotImplemented  # its collectives come below
        if func.namespace in HOMES and any(verb in str(func) for verb in VERBS):
            self.calls += 1
            self.bytes += sum(map(size, put_in(func, args)))
        return func(*args, **(kwargs or {}))


def put_in(func: Any, args: tuple[Any, ...]) -> list[Tensor]:
    """The tensors that a collective reads, without those that it only writes."""
    names = [argument.name for argument in func._schema.arguments]
    read = [
        value for name, value in zip(names, args, strict=False) if not name.startswith("output")
    ]
    return [t for t in tree_leaves(read) if isinstance(t, Tensor)]


def size(t: Tensor) -> int:
    """Bytes of a tensor; of a DTensor, those of this rank."""
    own = t.to_local() if isinstance(t, DTensor) else t
    return own.numel() * own.element_size()


def held(trees: Any) -> int:
    """Bytes of a pytree on this rank, without numbers such as a count of steps."""
    return sum(size(t) for t in tree_leaves(trees) if t.dim())
