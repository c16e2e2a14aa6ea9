"""What processes send: each collective with its bytes, and the bytes that a process writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

KINDS = {
    "all_reduce": "all-reduce",
    "allreduce_": "all-reduce",
    "all_gather_into_tensor": "all-gather",
    "_allgather_base_": "all-gather",
    "reduce_scatter_tensor": "reduce-scatter",
    "_reduce_scatter_base_": "reduce-scatter",
}
"""Collectives that move tensors. DistributedDataParallel also sends a few whole numbers once."""


class Message(NamedTuple):
    """One collective."""

    kind: str
    """``all-reduce``, ``all-gather`` or ``reduce-scatter``."""

    size: int
    """The bytes of the whole: the sum, or the tensor that is gathered or scattered."""


class Sent(TorchDispatchMode):
    """A context that notes every collective."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Message] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented
        result = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name.startswith(("c10d::", "_c10d_functional::")):
            kind = KINDS.get(name.partition("::")[2])
            if kind is not None:
                # The largest tensor is the whole one.
                sizes = [t.numel() * t.element_size() for t in _tensors((args, result))]
                self.messages.append(Message(kind, max(sizes)))
        return result


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [t for item in value for t in _tensors(item)]
    return []


def written() -> int | None:
    """The bytes that this process has written, to sockets too; None if the system tells none."""
    numbers = Path("/proc/self/io")
    if not numbers.exists():
        return None
    pairs = [line.split(": ") for line in numbers.read_text().splitlines()]
    return int(dict(pairs)["wchar"])
