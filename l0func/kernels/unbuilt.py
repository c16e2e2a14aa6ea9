"""The error of a backend that cannot build a kernel; the caller runs torch operations then."""

from __future__ import annotations


class Unbuilt(Exception):
    """A kernel that its compiler refused.

    Args:
        reason: The compiler's error.
    """

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason
