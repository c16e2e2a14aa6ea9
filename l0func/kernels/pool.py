"""Tiles of a kernel's work on several threads, or all in this one.

Threads start for one call and end with it, so a fork finds no pool that it could lose.
"""

from __future__ import annotations

import contextlib
from _thread import LockType, allocate_lock, start_new_thread
from collections.abc import Callable

import torch

LARGE = 2_000_000
"""Draws from which on threads help: some two milliseconds of work, against 0.03 for a start."""


def run_tiles(function: Callable[[int], object], count: int, work: int) -> None:
    """Call ``function(i)`` for i from 0 to ``count - 1``, and return once all calls have ended.

    Large work runs on up to ``torch.get_num_threads()`` threads, this one among them. A result
    must not depend on the order of the calls.

    Args:
        function: Calls kernels that release the interpreter's lock.
        count: The number of tiles.
        work: The draws in all tiles together.

    Raises:
        BaseException: The first error from a call, or an interrupt. No thread writes any more
            then.
    """
    threads = min(torch.get_num_threads(), count) if work >= LARGE else 1
    if threads > 1:
        _Team(function, count).run(threads)
        return
    for tile in range(count):
        function(tile)


class _Team:
    """The threads of one call; each takes the next tile as soon as it is free."""

    def __init__(self, function: Callable[[int], object], count: int) -> None:
        self._function = function
        self._tiles = iter(range(count))
        self._lock = allocate_lock()
        self._error: BaseException | None = None

    def run(self, threads: int) -> None:
        ends: list[LockType] = []
        try:
            # Without a free thread, this one computes all tiles.
            with contextlib.suppress(RuntimeError):
                for _ in range(threads - 1):
                    ends.append(self._helper())
            self._work()
        except BaseException as error:
            self._stop(error)
        # An interrupt may come while this thread waits, also a second one.
        while not self._have_ended(ends):
            pass
        try:
            if self._error is not None:
                raise self._error
        finally:
            # An error holds its frames, and they hold this team with all of its arrays.
            self._error = None

    def _helper(self) -> LockType:
        """Start a thread; the lock is free once it has ended."""
        end = allocate_lock()
        end.acquire()
        # A thread of the threading module would keep this one waiting until it runs.
        start_new_thread(self._help, (end,))
        return end

    def _help(self, end: LockType) -> None:
        try:
            self._work()
        except BaseException as error:
            self._stop(error)
        finally:
            end.release()

    def _work(self) -> None:
        while (tile := self._next()) is not None:
            self._function(tile)

    def _next(self) -> int | None:
        with self._lock:
            return next(self._tiles, None)

    def _stop(self, error: BaseException) -> None:
        """Give out no more tiles."""
        with self._lock:
            self._tiles = iter(())
            self._error = self._error or error

    def _have_ended(self, ends: list[LockType]) -> bool:
        try:
            for end in ends:
                # Not acquire(): an interrupt right after it would leave the lock taken.
                with end:
                    pass
        except BaseException as error:
            self._stop(error)
            return False
        return True
