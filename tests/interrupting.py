"""Work that is interrupted: by a kill, by an error of the system, or by a limit."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO, StringIO
from types import FrameType
from typing import Any

SYSTEM_CALLS = frozenset(
    "open write writelines truncate flush fsync replace rename mkdir chmod".split()
)
"""The functions of C by which a program changes files, but those that close one."""
IN_MEMORY = (BytesIO, StringIO)
"""What a logger of the tests may write to."""


class At:
    """Does something when a program is about to change a file for the n-th time."""

    def __init__(self, number: int, act: Callable[[], None]) -> None:
        self.number, self.act, self.calls = number, act, 0

    def __call__(self, frame: FrameType, event: str, called: Any) -> None:
        if event != "c_call" or called.__name__ not in SYSTEM_CALLS:
            return
        if isinstance(getattr(called, "__self__", None), IN_MEMORY):
            return
        self.calls += 1
        if self.calls == self.number:
            self.act()


@contextmanager
def at_change(number: int, act: Callable[[], None]) -> Iterator[At]:
    """A context in which ``act`` runs before the n-th change of a file."""
    before, watch = sys.getprofile(), At(number, act)
    sys.setprofile(watch)
    try:
        yield watch
    finally:
        sys.setprofile(before)


def changes(work: Callable[[], Any]) -> int:
    """How often a program changes files."""
    with at_change(0, lambda: None) as watch:
        work()
    return watch.calls


def die() -> None:
    """End this process at once, as a lack of memory or of power does."""
    os.kill(os.getpid(), signal.SIGKILL)


def forked(
    work: Callable[[], Any],
    seconds: float | None = None,
    is_under_way: Callable[[], bool] = lambda: True,
) -> int:
    """Run work in a process of its own.

    Args:
        work: The work; it may change nothing that the caller sees but files.
        seconds: When to kill it; None lets it end.
        is_under_way: The seconds count from the moment when it is true.

    Returns:
        0 if it ended; less than 0: the signal that killed it; more: it raised an error.
    """
    with warnings.catch_warnings():
        # The threads of the parent do nothing that the child would wait for.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _run_as_child(work)
    if seconds is not None:
        try:
            while not is_under_way() and not _has_ended(child):
                time.sleep(0.001)
            time.sleep(seconds)
        finally:
            os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _has_ended(child: int) -> bool:
    """Whether a child waits for its parent to ask how it ended."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _run_as_child(work: Callable[[], Any]) -> None:
    code = 1
    try:
        work()
        code = 0
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)
