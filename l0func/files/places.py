"""Paths of files: as text, for messages, and what stands there."""

from __future__ import annotations

import os
import stat
from typing import Any, TypeAlias, cast

PathLike: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def text_of_path(path: Any, /) -> str:
    """A path as text; bytes that are no UTF-8 survive.

    Raises:
        TypeError: It is no path.
        ValueError: It is empty or contains a zero character, or names a folder.
    """
    try:
        text = _decoded(path)
    except TypeError:
        raise TypeError(
            "A file is named by a str, bytes or an os.PathLike, the first argument; got "
            f"{type(path).__name__}."
        ) from None
    if not text or "\0" in text:
        raise ValueError(f"{text!r} names no file.")
    if text.endswith(_separators()):
        raise ValueError(f"{shown_path(text)} names a folder; add the name of the file.")
    return text


def _separators() -> tuple[str, ...]:
    return (os.sep, os.altsep) if os.altsep else (os.sep,)


def shown_path(path: Any, /) -> str:
    """A path for a message, printable on every terminal."""
    return _decoded(path).encode("utf-8", "backslashreplace").decode("utf-8")


def _decoded(path: Any) -> str:
    return os.fsdecode(cast("str | bytes", os.fspath(path)))


def check_regular(path: str, found: os.stat_result) -> None:
    """Refuse anything but a regular file.

    Raises:
        ValueError: A folder, a FIFO, a socket or a device stands there.
    """
    kind = stat.S_IFMT(found.st_mode)
    if kind != stat.S_IFREG:
        what = _KINDS.get(kind, "something else")
        raise ValueError(
            f"{shown_path(path)} is {what}, not a regular file. Networks and states are read from "
            "regular files and written to them."
        )
