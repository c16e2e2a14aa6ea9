"""Names of leaves: how they are checked, matched by patterns and turned into numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TypeVar, cast

Value = TypeVar("Value")


def closest(name: str, names: Iterable[str], /) -> str:
    """The end of an error message that names the nearest name; empty if there are no names."""
    names = list(names)
    near = get_close_matches(name, names, n=1, cutoff=0.0)
    return f"; the closest is {near[0]!r}" if near else ""


def check_names(got: Iterable[str], expected: Iterable[str], /, label: str) -> None:
    """Refuse a tree unless its paths are exactly the expected ones.

    Args:
        got: The paths of the tree.
        expected: The paths that it should have.
        label: A name for the tree in an error.

    Raises:
        ValueError: A path is unknown or missing; the message names the nearest one.
    """
    got, expected = set(got), set(expected)
    for name in sorted(got - expected):
        candidates = sorted(expected - got) or sorted(expected)
        raise ValueError(f"{label} has no {name!r}{closest(name, candidates)}.")
    for name in sorted(expected - got):
        raise ValueError(f"{label} lacks {name!r}{closest(name, sorted(got))} among those given.")


def matches(path: str, patterns: Mapping[str, Value], /) -> Sequence[Value]:
    """The value of the first pattern that matches the path: one value, or none."""
    for pattern, value in patterns.items():
        if fnmatchcase(path, pattern):
            return [value]
    return []


def check_patterns(patterns: Iterable[str], paths: Iterable[str], /, label: str) -> None:
    """Refuse a pattern that no path matches.

    Args:
        patterns: Patterns as for fnmatch.
        paths: The paths that they may match.
        label: A word for the things behind the paths, for an error.

    Raises:
        ValueError: The pattern matches nothing; the message names the nearest path.
    """
    paths = list(paths)
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in paths):
            raise ValueError(
                f"Pattern {pattern!r} matches no {label}{closest(pattern, paths)}. "
                "Patterns are fnmatch-style over dotted paths, e.g. 'encoder.*.weight'."
            )


def per_path(
    setting: Value | Mapping[str, Value], paths: Iterable[str], /, label: str, kind: str
) -> dict[str, Value]:
    """One value for each path, from a setting that may depend on patterns.

    Args:
        setting: One value for all paths, or ``{pattern: value}``; the first match wins.
        paths: The paths that need a value.
        label: A name for the setting in an error.
        kind: A word for the things behind the paths, for an error.

    Returns:
        ``{path: value}``.

    Raises:
        ValueError: A pattern matches no path, or a path no pattern.
    """
    paths = list(paths)
    if not isinstance(setting, Mapping):
        return dict.fromkeys(paths, setting)
    patterns = cast("Mapping[str, Value]", setting)
    check_patterns(patterns, paths, kind)
    found = {path: matches(path, patterns) for path in paths}
    for path, value in found.items():
        if not value:
            raise ValueError(
                f"No pattern gives {label} to the {kind} {path!r}; the patterns are "
                f"{sorted(patterns)}. Add one that matches it, or '*' for the rest."
            )
    return {path: value[0] for path, value in found.items()}


def stream(name: str) -> int:
    """The number of a name, to be folded into a key: the first 8 bytes of the name's SHA-256."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)
