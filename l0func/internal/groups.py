"""Groups of processes: refusals of a call that would not reach the others."""

from __future__ import annotations

from typing import Any

import torch


def has_group() -> bool:
    """Whether ``torch.distributed`` is there and has a group."""
    distributed: Any = torch.distributed
    return bool(distributed.is_available() and distributed.is_initialized())


def check_member(caller: str, group: Any, /) -> None:
    """Refuse a collective without a group, or by a process outside of it.

    Args:
        caller: The public function, for the message.
        group: The group; None is the whole world.

    Raises:
        RuntimeError: ``torch.distributed`` has no group yet.
        ValueError: This process is not in the group: torch would return at once.
    """
    if not has_group():
        raise RuntimeError(
            f"{caller} needs a group of processes: call torch.distributed.init_process_group "
            f"first. A single process needs no {caller}."
        )
    distributed: Any = torch.distributed
    if distributed.get_rank(group) < 0:
        raise ValueError(
            f"{caller}: process {distributed.get_rank()} is not in the group. Call it in the "
            "group's own processes only, or leave group out for all."
        )


def ranks_of(group: Any, /) -> list[int]:
    """The numbers of a group's processes in the whole world."""
    distributed: Any = torch.distributed
    if group is None:
        return list(range(distributed.get_world_size()))
    return list(distributed.get_process_group_ranks(group))
