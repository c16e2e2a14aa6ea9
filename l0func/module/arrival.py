"""Processes that meet before a collective: one that takes another road is found, not awaited.

A collective that some processes never call hangs the others, or mixes with their next one. So
every process first says in the group's store that it has come. A process that passes the numbers
of its rows needs no meeting; it leaves a note there, and waits for nobody.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from l0func.internal.groups import has_group
from l0func.internal.untyped import listed, untyped

SOON = 2.0
"""The seconds for which a process waits where another with its key has passed rows."""

PATIENCE_WITH_ROWS = 300.0
"""The seconds for which it waits where another with any key has."""

_LONGEST_WAIT = 1800.0  # As torch's own collectives.
_PASSED: Counter[str] = Counter()
"""How many meetings this process was at, and how many notes of each kind it left or heeded."""

_MET = "l0func/met"
_ANY_ROWS = "rows"


def has_others() -> bool:
    """Whether this process is one of several."""
    distributed: Any = torch.distributed
    return has_group() and distributed.get_world_size() > 1


def note_rows(key: Tensor) -> None:
    """Note that this process passes the numbers of its rows; it waits for no other process.

    Args:
        key: The key of its draws, shape ``(2,)``.
    """
    store = _store()
    if store is None:
        return
    distributed: Any = torch.distributed
    for rows in (_rows_of(key), _ANY_ROWS):
        note = _next_note(rows)
        store.set(f"{note}/rank", str(distributed.get_rank()))
        store.add(note, 1)
        _PASSED[_since_last_meeting(rows)] += 1


def meet(key: Tensor) -> None:
    """Wait until all processes of the world are here.

    Args:
        key: The key of this process's draws, shape ``(2,)``.

    Raises:
        ValueError: Another process passes the numbers of its rows; or some never come.
    """
    store = _store()
    if store is None:
        return
    distributed: Any = torch.distributed
    size, start = distributed.get_world_size(), time.monotonic()
    meeting = f"{_MET}/{_PASSED[_MET]}"
    store.add(meeting, 1)
    while store.add(meeting, 0) < size:
        reason = _reason_to_leave(store, key, time.monotonic() - start)
        if reason and store.add(meeting, -1) < size - 1:
            _heed_notes(store, key)
            raise ValueError(reason)
        if reason:
            # The last one has come in this moment.
            store.add(meeting, 1)
        time.sleep(0.01)
    _PASSED[_MET] += 1


def _reason_to_leave(store: Any, key: Tensor, waited: float) -> str:
    note = _next_note(_rows_of(key))
    if waited > SOON and store.add(note, 0):
        other = store.get(f"{note}/rank").decode()
        return _mixed_rows(f"Process {other} holds the same key and passes")
    if waited > PATIENCE_WITH_ROWS and store.add(_next_note(_ANY_ROWS), 0):
        return _mixed_rows("Another process passes")
    if waited > _LONGEST_WAIT:
        return (
            "Some processes did not call this L0Module without rows within "
            f"{_LONGEST_WAIT:.0f} seconds. Its first call in training compares the keys of all "
            "processes: call it in every one, or pass net(x, rows=index)."
        )
    return ""


def _heed_notes(store: Any, key: Tensor) -> None:
    """A process that was refused for another's note is not refused for it again."""
    for rows in (_rows_of(key), _ANY_ROWS):
        if store.add(_next_note(rows), 0):
            _PASSED[_since_last_meeting(rows)] += 1


def _mixed_rows(start: str) -> str:
    return (
        f"{start} the numbers of its rows, net(x, rows=index), and this process passes none, so "
        "that their masks do not belong together. Pass rows in every process or in none."
    )


def _rows_of(key: Tensor) -> str:
    first, second = listed(key)
    return f"rows/{first}/{second}"


def _since_last_meeting(rows: str) -> str:
    return f"{_MET}/{_PASSED[_MET]}/{rows}"


def _next_note(rows: str) -> str:
    """The name of the first note that this process has neither left nor heeded.

    Another process that leaves it has taken the road of rows once more than this one, since both
    were at the last meeting. Notes from before that meeting say nothing of the next.
    """
    road = _since_last_meeting(rows)
    return f"{road}/{_PASSED[road]}"


def _store() -> Any:
    """The store in which the processes of the world met; None where the backend has none."""
    return untyped.distributed.distributed_c10d._get_default_store()
