"""One line on stderr for work that takes longer than people wait without a word."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from threading import Timer

PATIENCE = 2.0
"""Seconds before the line."""


@contextmanager
def line_when_slow(text: str) -> Generator[None, None, None]:
    """A context that writes one line to stderr if it is still open after two seconds."""
    timer = Timer(PATIENCE, _print, (text,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
