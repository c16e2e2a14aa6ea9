"""Groups of processes: refusals of a call that would not reach the others."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup as ProcessGroup
else:
    # A torch without distributed has no such class.
    ProcessGroup = Any


def has_group() -> bool:
    """Whether ``torch.distributed`` is there and has a group."""
    distributed: Any = torch.distributed
    return bool(distributed.is_available() and distributed.is_initialized())


def check_member(caller: str, group: ProcessGroup | None, /) -> None:
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


def ranks_of(group: ProcessGroup | None, /) -> list[int]:
    """The numbers of a group's processes in the whole world."""
    distributed: Any = torch.distributed
    if group is None:
        return list(range(distributed.get_world_size()))
    return list(distributed.get_process_group_ranks(group))


@contextmanager
def together(caller: str, what: str, value: str) -> Generator[None, None, None]:
    """A context for checks before a collective: what one process refuses, all do.

    A process that raised alone would leave the others waiting. Without a group it does nothing.

    Args:
        caller: The public function, for the message.
        what: A word for an argument that all processes share.
        value: That argument.

    Raises:
        ValueError: Another process has refused, or its argument is another.
        Exception: What was raised in this process.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as found:
        # Anything may be raised, and the others must hear of it.
        error = found
    if has_group():
        reason = _reason_of_others(caller, what, value, error)
        error = error or reason
    if error is not None:
        raise error


def _reason_of_others(
    caller: str, what: str, value: str, error: Exception | None
) -> ValueError | None:
    distributed: Any = torch.distributed
    of_all: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(of_all, (value, "" if error is None else str(error)))
    for rank, (other, reason) in enumerate(of_all):
        if reason:
            return ValueError(f"{caller}: process {rank} has refused. {reason}")
        if other != of_all[0][0]:
            return ValueError(
                f"{caller}: process {rank} was given the {what} {other!r} and process 0 "
                f"{of_all[0][0]!r}. Give the same in all processes."
            )
    return None
