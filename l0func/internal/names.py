"""Names of leaves: checked against the expected ones, matched by patterns, turned into numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TypeVar, cast

Value = TypeVar("Value")


def closest(name: str, names: Iterable[str], /) -> str:
    """A phrase that names the nearest of some names, or nothing if there are none."""
    names = list(names)
    near = get_close_matches(name, names, n=1, cutoff=0.0)
    return f"; the closest is {near[0]!r}" if near else ""


def check_names(got: Iterable[str], expected: Iterable[str], /, what: str) -> None:
    """Refuse a tree whose paths are not exactly the expected ones.

    Raises:
        ValueError: A path is unknown or missing; the message names the nearest one.
    """
    got, expected = set(got), set(expected)
    for name in sorted(got - expected):
        raise ValueError(
            f"{what} has no {name!r}{closest(name, sorted(expected - got) or sorted(expected))}."
        )
    for name in sorted(expected - got):
        raise ValueError(f"{what} lacks {name!r}{closest(name, sorted(got))} among those given.")


def matches(path: str, patterns: Mapping[str, Value], /) -> Sequence[Value]:
    """The value of the first pattern that matches the path: one value, or none."""
    for pattern, value in patterns.items():
        if fnmatchcase(path, pattern):
            return [value]
    return []


def check_patterns(patterns: Iterable[str], paths: Iterable[str], /, what: str) -> None:
    """Refuse a pattern that no path matches.

    Raises:
        ValueError: The pattern matches nothing; the message names the nearest path.
    """
    paths = list(paths)
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in paths):
            raise ValueError(
                f"Pattern {pattern!r} matches no {what}{closest(pattern, paths)}. "
                "Patterns are fnmatch-style over dotted paths, e.g. 'encoder.*.weight'."
            )


def per_path(
    setting: Value | Mapping[str, Value], paths: Iterable[str], /, what: str, of: str
) -> dict[str, Value]:
    """A setting for each path, from one value for all or from a value for each pattern; the first
    match wins.

    Args:
        setting: One value, or ``{pattern: value}``.
        paths: The paths that need one.
        what: What to call the setting in an error.
        of: What to call a path in an error.

    Raises:
        ValueError: A pattern matches no path, or a path no pattern.
    """
    paths = list(paths)
    if not isinstance(setting, Mapping):
        return dict.fromkeys(paths, setting)
    patterns = cast("Mapping[str, Value]", setting)
    check_patterns(patterns, paths, of)
    found = {path: matches(path, patterns) for path in paths}
    for path, value in found.items():
        if not value:
            raise ValueError(
                f"No pattern gives {what} to the {of} {path!r}; the patterns are "
                f"{sorted(patterns)}. "
                "Add one that matches it, or '*' for the rest."
            )
    return {path: value[0] for path, value in found.items()}


def stream(name: str) -> int:
    """The number that is folded into a key for what has this name: the first 8 bytes of its
    SHA-256.
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little", signed=True)
