"""Whether all processes of a group hold the same: one small collective, and the first difference.

The good case gathers 32 bytes of each process: a digest, times a factor. The factors of processes
with the same part add up to zero, so the sum of all is zero where they agree, whoever holds what.
Only where it is another number the processes gather the texts of all parts, to say what differs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch

from l0func.internal.groups import ranks_of
from l0func.internal.untyped import listed
from l0func.sharding.descriptions import Description, described

_SHOWN_PARTS = 3
_ABSENT = "nothing"
_BYTES = 32
_NamedPart: TypeAlias = tuple[str, tuple[int, ...] | None]
"""The name of a part, and its holders; None for all."""
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
    own, error = _parts_of_things(things)
    ranks = ranks_of(group)
    if not _all_equal(own, ranks, group):
        distributed: Any = torch.distributed
        of_all: list[Any] = [None] * len(ranks)
        texts = {(part.name, part.holders): part.text for part in own}
        distributed.all_gather_object(of_all, texts, group=group)
        raise error or ValueError(_difference(of_all, ranks))
    if error is not None:
        raise error


def _parts_of_things(things: Mapping[str, Any]) -> tuple[list[Description], Exception | None]:
    """The texts of all parts; a process that cannot compare still meets the others."""
    parts: list[Description] = []
    try:
        for name, value in things.items():
            parts.extend(described(name, value))
    except (TypeError, ValueError) as error:
        return [Description("its arguments", f"an error, {error}")], error
    return parts, None


def _all_equal(parts: Sequence[Description], ranks: Sequence[int], group: Any) -> bool:
    """Whether all processes that hold a part hold the same; what all hold is one part."""
    distributed: Any = torch.distributed
    device = _DEVICES.get(str(distributed.get_backend(group)), "cpu")
    term = _own_term(parts, ranks, distributed.get_rank()) % 2 ** (8 * _BYTES)
    own = torch.tensor(list(term.to_bytes(_BYTES, "big")), dtype=torch.uint8, device=device)
    found = [torch.empty_like(own) for _ in ranks]
    distributed.all_gather(found, own, group=group)
    terms = [int.from_bytes(bytes(listed(other)), "big") for other in found]
    return sum(terms) % 2 ** (8 * _BYTES) == 0


def _own_term(parts: Sequence[Description], ranks: Sequence[int], rank: int) -> int:
    """This process's term of a sum that is zero where all agree."""
    common = sorted([(part.name, part.text) for part in parts if part.holders is None])
    total = _factor_of(ranks, rank) * _digest_number(common)
    members = frozenset(ranks)
    for part in parts:
        if part.holders is not None:
            own = [other for other in part.holders if other in members]
            total += _factor_of(own, rank) * _digest_number([part.name, part.text])
    return total


def _factor_of(holders: Sequence[int], rank: int) -> int:
    """A factor for each holder; they add up to zero, and one alone has none."""
    return 1 - len(holders) if rank == holders[-1] else 1


def _digest_number(value: Any) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(value).encode()).digest(), "big")


def _difference(of_all: Sequence[Mapping[_NamedPart, str]], ranks: Sequence[int]) -> str:
    """The message: the first parts that differ, and the processes that hold each value."""
    names: dict[_NamedPart, None] = {}
    for parts in of_all:
        names.update(dict.fromkeys(parts))
    held = [_held_by_text(part, of_all, ranks) for part in names]
    differing = [(name, own) for (name, _), own in zip(names, held, strict=True) if len(own) > 1]
    lines = [_holders(name, own) for name, own in differing[:_SHOWN_PARTS]]
    if len(differing) > _SHOWN_PARTS:
        lines.append(
            f"{len(differing) - _SHOWN_PARTS} more differ, such as {differing[_SHOWN_PARTS][0]}"
        )
    return (
        "The processes do not agree. " + ". ".join(lines) + ". Give every process the same seed, "
        "spec and checkpoint, or send those of one process to the others."
    )


def _held_by_text(
    part: _NamedPart, of_all: Sequence[Mapping[_NamedPart, str]], ranks: Sequence[int]
) -> dict[str, list[int]]:
    """The processes by their text for a part: all, or those that hold it."""
    held: dict[str, list[int]] = {}
    for rank, parts in zip(ranks, of_all, strict=True):
        if part in parts or part[1] is None:
            held.setdefault(parts.get(part, _ABSENT), []).append(rank)
    return held


def _holders(name: str, held: Mapping[str, Sequence[int]]) -> str:
    """For one part each value, and the processes that hold it; the most frequent value first."""
    ordered = sorted(held.items(), key=lambda item: -len(item[1]))
    shown = [f"{text} in {_processes(own)}" for text, own in ordered]
    return f"{name}: " + "; ".join(shown)


def _processes(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"process {ranks[0]}"
    few = ", ".join(map(str, ranks[:8]))
    return f"processes {few}" + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
