"""One line on the terminal, once compiling has taken two seconds of this process."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from threading import Timer

from l0func.internal.waiting import say

PATIENCE = 2.0
"""Seconds."""


class _Progress:
    """The seconds of compilation so far, and whether the line stands."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.is_told = False


_progress = _Progress()


@contextmanager
def compiling_takes(line: str) -> Generator[None]:
    """A context around a compilation; it writes the line when the process's patience ends."""
    timer = Timer(max(PATIENCE - _progress.seconds, 0.0), _tell, (line,))
    timer.daemon = True
    start = time.monotonic()
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        _progress.seconds += time.monotonic() - start


def _tell(line: str) -> None:
    if not _progress.is_told and _someone_watches():
        _progress.is_told = True
        say(line)


def _someone_watches() -> bool:
    """Whether standard error is a terminal or a notebook: logs and tests stay as they were."""
    stream = sys.stderr
    return stream is not None and (stream.isatty() or "ipykernel" in sys.modules)
