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


def first_matches(paths: Iterable[str], patterns: Mapping[str, Value], /) -> dict[str, Value]:
    """The value of the first matching pattern, for each path that has one.

    A pattern without wildcards is looked up, so that one pattern per path takes linear time.

    Args:
        paths: Dotted paths.
        patterns: ``{pattern: value}``; the first match wins.

    Returns:
        ``{path: value}``, in the order of the paths.
    """
    rank = {pattern: place for place, pattern in enumerate(patterns)}
    wild = [pattern for pattern in patterns if _is_wild(pattern)]
    exact = rank.keys() - set(wild)
    found: dict[str, Value] = {}
    for path in paths:
        first_wild = next((pattern for pattern in wild if fnmatchcase(path, pattern)), None)
        candidates = [first_wild] if first_wild is not None else []
        if path in exact:
            candidates.append(path)
        if candidates:
            found[path] = patterns[min(candidates, key=rank.__getitem__)]
    return found


def _is_wild(pattern: str) -> bool:
    """Whether fnmatch reads the pattern as anything but itself."""
    return any(character in pattern for character in "*?[")


def check_patterns(patterns: Iterable[str], paths: Iterable[str], /, what: str) -> None:
    """Refuse a pattern that no path matches.

    Raises:
        ValueError: The pattern matches nothing; the message names the nearest path.
    """
    known = dict.fromkeys(paths)
    for pattern in patterns:
        if _is_wild(pattern):
            matched = any(fnmatchcase(path, pattern) for path in known)
        else:
            matched = pattern in known
        if not matched:
            raise ValueError(
                f"Pattern {pattern!r} matches no {what}{closest(pattern, known)}. "
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
    found = first_matches(paths, patterns)
    for path in paths:
        if path not in found:
            raise ValueError(
                f"No pattern gives {what} to the {of} {path!r}; the patterns are "
                f"{sorted(patterns)}. "
                "Add one that matches it, or '*' for the rest."
            )
    return found


def stream(name: str) -> int:
    """The number that is folded into a key for what has this name: the first 8 bytes of its
    SHA-256.
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little", signed=True)
