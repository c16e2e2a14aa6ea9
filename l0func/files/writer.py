"""The one way to write a file: beside its place, and then in its place at once."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import partial
from typing import BinaryIO, NamedTuple

from l0func.files.places import PathLike, check_regular, shown_path, text_of_path

# Some file systems, such as those over a network, cannot do these things.
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


class _Target(NamedTuple):
    """The file behind all links, and what stands there now."""

    path: str
    before: os.stat_result | None


@contextmanager
def replacing(path: PathLike, /) -> Generator[BinaryIO, None, None]:
    """A new file for writing, which takes the place of the file at ``path`` in the end.

    Until then the old file stays as it is. After a failure nothing else is left behind; only a
    killed process leaves its unfinished file, ``.l0func-....part`` in the same folder, which may
    be removed. The new file has the mode of the old one, and its owner if that is allowed. Other
    hard links to the old file keep the old contents.

    Args:
        path: The file. Links stay, and their target is replaced.

    Yields:
        The unfinished file, empty.

    Raises:
        TypeError: ``path`` is no path.
        ValueError: A folder, a FIFO, a socket or a device stands there.
        OSError: The file cannot be written: no such folder, no right, no room. Or it was written,
            and the system cannot promise that it survives a power cut; the message says which.
    """
    target = _target_of(path)
    folder = os.path.dirname(target.path)
    # Not named after the target: its name may be as long as names can be.
    unfinished = os.path.join(folder, f".l0func-{secrets.token_hex(8)}.part")
    try:
        with open(unfinished, "xb", opener=partial(_open, target.before)) as file:
            _take_after(unfinished, target.before)
            yield file
            file.flush()
            _sync(file.fileno())
        os.replace(unfinished, target.path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(unfinished)
        if isinstance(error, OSError):
            raise _in_users_words(error, folder, path) from error
        raise
    try:
        _sync_folder(folder)
    except OSError as error:
        reason = f"{_said_by(error)}; the new file is in its place, and a power cut may undo that"
        raise OSError(error.errno, reason, shown_path(path)) from error


def _target_of(path: PathLike) -> _Target:
    text = text_of_path(path)
    try:
        # A loop of links ends here, in an OSError that names the path.
        before = os.stat(text)
    except FileNotFoundError:
        return _Target(os.path.realpath(text), None)
    check_regular(text, before)
    if not os.access(text, os.W_OK):
        raise PermissionError(
            errno.EACCES, "This file is protected against writing", shown_path(text)
        )
    return _Target(os.path.realpath(text), before)


def _open(before: os.stat_result | None, path: str, flags: int) -> int:
    # A new file gets the mode that the process gives its files. In the place of a file the mode
    # comes later, and nobody else reads until then.
    return os.open(path, flags, 0o666 if before is None else 0o600)


def _take_after(path: str, before: os.stat_result | None) -> None:
    """Give the new file the owner and the mode of the old one."""
    if before is None:
        return
    now = os.stat(path)
    if sys.platform != "win32" and (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
        # Only root may give a file away.
        with suppress(OSError):
            os.chown(path, before.st_uid, before.st_gid)
    if stat.S_IMODE(os.stat(path).st_mode) != stat.S_IMODE(before.st_mode):
        os.chmod(path, stat.S_IMODE(before.st_mode))


def _sync(descriptor: int) -> None:
    """Have the system write what it holds of a file or a folder."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def _sync_folder(folder: str) -> None:
    """Have the system write the folder's names, so that the new file survives a power cut."""
    # Windows opens no folders. A folder may be writable and not readable.
    if sys.platform == "win32" or not os.access(folder, os.R_OK):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _in_users_words(error: OSError, folder: str, path: PathLike) -> OSError:
    """The same error with the user's path: the system names the unfinished file, or none."""
    reason = _said_by(error)
    if error.errno == errno.ENOENT:
        reason = f"There is no folder {shown_path(folder)} for this file; make it first"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        reason = f"{reason}: files cannot be made or replaced in {shown_path(folder)}"
    else:
        reason = f"{reason}; nothing was written, and an earlier file is as it was"
    return OSError(error.errno, reason, shown_path(path))


def _said_by(error: OSError) -> str:
    return error.strerror or str(error)
