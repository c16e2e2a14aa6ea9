"""Regular files, opened for reading; a FIFO or a device is refused and never waited for."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from io import FileIO

from l0func.files.places import PathLike, check_regular, text_of_path


@contextmanager
def reading(path: PathLike, /) -> Generator[FileIO, None, None]:
    """A regular file, open for reading.

    Raises:
        TypeError: ``path`` is no path.
        ValueError: A folder, a FIFO, a socket or a device stands there.
        OSError: The file does not exist, or cannot be read.
    """
    text = text_of_path(path)
    check_regular(text, os.stat(text))
    with open(text, "rb", buffering=0, opener=_open_at_once) as file:
        # It may be another file by now.
        check_regular(text, os.fstat(file.fileno()))
        yield file


def _open_at_once(path: str, flags: int) -> int:
    # Opening a FIFO waits for its other end otherwise. Windows has no such flag, and no FIFOs.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
