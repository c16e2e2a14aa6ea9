"""Whether all processes of a group hold the same: one small collective, and the first difference.

The good case gathers 32 bytes of each process. Only where these differ the processes gather the
texts of all parts, to say what differs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from l0func.internal.groups import ranks_of
from l0func.internal.untyped import listed
from l0func.sharding.descriptions import described

_SHOWN_PARTS = 3
_ABSENT = "nothing"
# The device of a backend's messages; all others send from the CPU.
_DEVICES = {"nccl": "cuda", "xccl": "xpu", "hccl": "hpu"}


def compare(things: Mapping[str, Any], group: Any, /) -> None:
    """Refuse values that differ between processes; a collective.

    Args:
        things: The values by name, as :func:`described` takes them.
        group: The group; None is the whole world.

    Raises:
        TypeError: A value has a part that processes cannot compare.
        ValueError: Two processes hold different values; it is raised in all of them.
    """
    own, error = _texts_of_things(things)
    if not _all_equal(own, group):
        distributed: Any = torch.distributed
        of_all: list[Any] = [None] * distributed.get_world_size(group)
        distributed.all_gather_object(of_all, own, group=group)
        raise error or ValueError(_difference(of_all, ranks_of(group)))
    if error is not None:
        raise error


def _texts_of_things(things: Mapping[str, Any]) -> tuple[dict[str, str], Exception | None]:
    """The texts of all parts; a process that cannot compare still meets the others."""
    parts: dict[str, str] = {}
    try:
        for name, value in things.items():
            parts.update(described(name, value))
    except (TypeError, ValueError) as error:
        return {"its arguments": f"an error, {error}"}, error
    return parts, None


def _all_equal(parts: Mapping[str, str], group: Any) -> bool:
    """Whether the digest of all parts is the same in all processes."""
    distributed: Any = torch.distributed
    text = json.dumps(sorted(parts.items()))
    device = _DEVICES.get(str(distributed.get_backend(group)), "cpu")
    digest = list(hashlib.sha256(text.encode()).digest())
    own = torch.tensor(digest, dtype=torch.uint8, device=device)
    found = [torch.empty_like(own) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(found, own, group=group)
    return all(listed(other) == digest for other in found)


def _difference(of_all: Sequence[Mapping[str, str]], ranks: Sequence[int]) -> str:
    """The message: the first parts that differ, and the processes that hold each value."""
    names: dict[str, None] = {}
    for parts in of_all:
        names.update(dict.fromkeys(parts))
    differing = [name for name in names if len({p.get(name, _ABSENT) for p in of_all}) > 1]
    lines = [_holders(name, of_all, ranks) for name in differing[:_SHOWN_PARTS]]
    if len(differing) > _SHOWN_PARTS:
        lines.append(
            f"{len(differing) - _SHOWN_PARTS} more differ, such as {differing[_SHOWN_PARTS]}"
        )
    return (
        "The processes do not agree. " + ". ".join(lines) + ". Give every process the same seed, "
        "spec and checkpoint, or send those of one process to the others."
    )


def _holders(name: str, of_all: Sequence[Mapping[str, str]], ranks: Sequence[int]) -> str:
    """For one part each value, and the processes that hold it; the most frequent value first."""
    held: dict[str, list[int]] = {}
    for rank, parts in zip(ranks, of_all, strict=True):
        held.setdefault(parts.get(name, _ABSENT), []).append(rank)
    ordered = sorted(held.items(), key=lambda item: -len(item[1]))
    shown = [f"{text} in {_processes(own)}" for text, own in ordered]
    return f"{name}: " + "; ".join(shown)


def _processes(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"process {ranks[0]}"
    few = ", ".join(map(str, ranks[:8]))
    return f"processes {few}" + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
