"""Lines on stderr: for slow work, and for work that changed nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from threading import Timer

PATIENCE = 2.0
"""Seconds before the line."""


@contextmanager
def line_when_slow(text: str) -> Generator[None, None, None]:
    """A context that writes one line to stderr if it is still open after two seconds."""
    timer = Timer(PATIENCE, say, (text,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@lru_cache(maxsize=256)
def line_once(text: str) -> None:
    """Write a line to stderr, once in a process."""
    say(text)


def say(text: str) -> None:
    """Write a line to stderr, unless the environment variable L0FUNC_QUIET is set."""
    if not os.environ.get("L0FUNC_QUIET"):
        print(text, file=sys.stderr, flush=True)
