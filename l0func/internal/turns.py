"""Values of the whole process, which threads change one after another."""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from threading import RLock
from typing import Any


def turns() -> AbstractContextManager[Any]:
    """A context that one thread is in at a time.

    A process that forks while another thread is in it could never enter it: a fork waits.
    """
    lock = RLock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release
        )
    return lock


_FILTERS = turns()


@contextmanager
def ignoring(category: type[Warning], message: str = "") -> Generator[None]:
    """A context without the warnings of a category whose text matches.

    Python keeps one list of filters for all threads: two that change it at once leave it changed.

    Args:
        category: The warnings' class.
        message: A regular expression for the beginning of the text.
    """
    with _FILTERS, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=message, category=category)
        yield
