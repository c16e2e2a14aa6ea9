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
_DONE_HERE: Counter[str] = Counter()
"""The meetings that this process was at, and the notes that it has left."""

_ROWS_ROAD = "l0func/rows"
_MET = "l0func/met"


def has_others() -> bool:
    """Whether this process is one of several."""
    distributed: Any = torch.distributed
    return has_group() and distributed.get_world_size() > 1


def note_rows(key: Tensor) -> None:
    """Note that this process passes the numbers of its rows; it waits for no other process.

    Args:
        key: The key of its draws, shape ``(2,)``.
    """
    store, road = _store(), _road(key)
    if store is None:
        return
    distributed: Any = torch.distributed
    store.set(f"{road}/rank", str(distributed.get_rank()))
    for name in (road, _ROWS_ROAD):
        store.add(name, 1)
        _DONE_HERE[name] += 1


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
    size, meeting, start = (
        distributed.get_world_size(),
        f"{_MET}/{_DONE_HERE[_MET]}",
        time.monotonic(),
    )
    store.add(meeting, 1)
    while store.add(meeting, 0) < size:
        reason = _reason_to_leave(store, key, time.monotonic() - start)
        if reason and store.add(meeting, -1) < size - 1:
            raise ValueError(reason)
        if reason:
            # The last one has come in this moment.
            store.add(meeting, 1)
        time.sleep(0.01)
    _DONE_HERE[_MET] += 1


def _reason_to_leave(store: Any, key: Tensor, waited: float) -> str:
    road = _road(key)
    if waited > SOON and store.add(road, 0) > _DONE_HERE[road]:
        other = store.get(f"{road}/rank").decode()
        return _mixed_rows(f"Process {other} holds the same key and passes")
    if waited > PATIENCE_WITH_ROWS and store.add(_ROWS_ROAD, 0) > _DONE_HERE[_ROWS_ROAD]:
        return _mixed_rows("Another process passes")
    if waited > _LONGEST_WAIT:
        return (
            "Some processes did not call this L0Module without rows within "
            f"{_LONGEST_WAIT:.0f} seconds. Its first call in training compares the keys of all "
            "processes: call it in every one, or pass net(x, rows=index)."
        )
    return ""


def _mixed_rows(start: str) -> str:
    return (
        f"{start} the numbers of its rows, net(x, rows=index), and this process passes none, so "
        "that their masks do not belong together. Pass rows in every process or in none."
    )


def _road(key: Tensor) -> str:
    first, second = listed(key)
    return f"{_ROWS_ROAD}/{first}/{second}"


def _store() -> Any:
    """The store in which the processes of the world met; None where the backend has none."""
    return untyped.distributed.distributed_c10d._get_default_store()
