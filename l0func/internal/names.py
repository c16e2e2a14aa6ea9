"""Names of leaves: functions to check them, match them to patterns and turn them into numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TypeVar, cast

Value = TypeVar("Value")

ORDER = "Arguments come in the order params, gates, buffers, key, inputs."
"""A reminder for arguments that look swapped."""

OF_A_STATE = (
    "A state_dict() holds parameters and buffers: in its place pass dict(net.named_parameters()) "
    "as params and dict(net.named_buffers()) as buffers."
)
"""What to do about params that have more names than they should."""


def closest(name: object, names: Iterable[str], /, cutoff: float = 0.0) -> str:
    """The end of an error message, with the nearest name; empty if there is none.

    Args:
        name: The name that is wrong.
        names: The right ones.
        cutoff: How like it the nearest must be, from 0, anything, to 1, the name itself.
    """
    if not isinstance(name, str):
        return ""
    names = list(names)
    near = get_close_matches(name, names, n=1, cutoff=cutoff)
    return f"; the closest is {near[0]!r}" if near else ""


def check_names(
    got: Iterable[str], expected: Iterable[str], /, given: str, wanted: str, advice: str = ""
) -> None:
    """Refuse a tree unless its paths are exactly the expected ones.

    Args:
        got: The paths of the tree.
        expected: The paths that it should have.
        given: Words for the tree in an error, such as "the gates given".
        wanted: Words for the tree that it is compared with, such as "the spec's gates".
        advice: A sentence that ends the error: where the right tree is found.

    Raises:
        ValueError: A path is unknown or missing; the message names the nearest one.
    """
    got, expected = set(got), set(expected)
    if got == expected:
        return
    ending = f" {advice}" if advice else ""
    for name in sorted(got - expected):
        candidates = sorted(expected - got) or sorted(expected)
        near = closest(name, candidates)
        raise ValueError(f"{name!r} is in {given} and not in {wanted}{near}.{ending}")
    for name in sorted(expected - got):
        near = closest(name, sorted(got))
        raise ValueError(f"{name!r} is in {wanted} and not in {given}{near}.{ending}")


def check_argument(
    got: Iterable[str],
    expected: Iterable[str],
    /,
    owner: str,
    label: str,
    advice: str = "",
    others: Mapping[str, Iterable[str]] | None = None,
) -> None:
    """Refuse an argument unless its paths are the expected ones.

    An argument without a single right name, or with exactly the names of another argument, was
    probably swapped, and the message says so.

    Args:
        got: The paths of the argument.
        expected: The paths that it should have.
        owner: A word for the thing that expects them, for an error.
        label: The argument's name, for an error.
        advice: A sentence that ends the error if some names fit: where the right ones are found.
        others: ``{label: paths}`` of the owner's other arguments.

    Raises:
        ValueError: A path is unknown or missing.
    """
    got, expected = set(got), set(expected)
    if got == expected:
        return
    if got and not got & expected:
        raise ValueError(_all_other_names(got, expected, owner, label))
    given, wanted = f"the {label} given", f"the {owner}'s {label}"
    for other, paths in (others or {}).items():
        if got and got == set(paths):
            swap = f"{label} and {other} look swapped. {ORDER}"
            advice = f"The names given are those of the {owner}'s {other}: {swap} {advice}"
        elif "gates" not in (label, other) and expected < got <= expected.union(paths):
            advice = OF_A_STATE
    check_names(got, expected, given, wanted, advice.strip())


def _all_other_names(got: set[str], expected: set[str], owner: str, label: str) -> str:
    both = f"the {owner} has {_first_of(expected)}; got {_first_of(got)}"
    start = f"The names in {label} do not fit: {both}"
    if all(name.isdecimal() for name in got):
        return f"{start}. A list of tensors has no names: pass the dict {{path: tensor}}."
    near = closest(min(got), sorted(expected))
    return (
        f"{start}{near}. Perhaps two arguments were swapped, or {label} belongs to another "
        f"module. {ORDER}"
    )


def _first_of(names: set[str]) -> str:
    """The first name, and the number of others."""
    if not names:
        return "none ({})"
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{min(names)!r}{more}"


def first_matches(paths: Iterable[str], patterns: Mapping[str, Value], /) -> dict[str, Value]:
    """The value of the first matching pattern, for each path that has one.

    A pattern without wildcards is looked up, so that one pattern per path takes linear time. So is
    one that is a path itself, such as ``"a[0]"``, which fnmatch reads as a set of characters.

    Args:
        paths: Dotted paths.
        patterns: ``{pattern: value}``; the first match wins.

    Returns:
        ``{path: value}``, in the order of the paths.
    """
    rank = {pattern: place for place, pattern in enumerate(patterns)}
    paths = list(paths)
    known = set(paths)
    wild = [pattern for pattern in patterns if _is_wild(pattern) and pattern not in known]
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


def matching(pattern: str, paths: Collection[str], /) -> Iterator[str]:
    """The paths that a pattern matches; one that is a path itself matches no other."""
    if pattern in paths:
        yield pattern
    elif _is_wild(pattern):
        yield from (path for path in paths if fnmatchcase(path, pattern))


def check_patterns(patterns: Iterable[str], paths: Iterable[str], /, label: str) -> None:
    """Refuse a pattern that no path matches.

    Args:
        patterns: Patterns as for fnmatch.
        paths: The paths that they may match.
        label: A word for the things behind the paths, for an error.

    Raises:
        ValueError: A pattern matches nothing; the message names the nearest path.
    """
    known = dict.fromkeys(paths)
    for pattern in patterns:
        if not any(matching(pattern, known)):
            raise ValueError(
                f"Pattern {pattern!r} matches no {label}{closest(pattern, known)}. "
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
        ValueError: A pattern matches no path, or no pattern matches a path.
    """
    paths = list(paths)
    if not isinstance(setting, Mapping):
        return dict.fromkeys(paths, setting)
    patterns = cast("Mapping[str, Value]", setting)
    check_patterns(patterns, paths, kind)
    found = first_matches(paths, patterns)
    for path in paths:
        if path not in found:
            raise ValueError(
                f"No pattern gives {label} to the {kind} {path!r}; the patterns are "
                f"{sorted(patterns)}. Add one that matches it, or '*' for the rest."
            )
    return found


def stream(name: str) -> int:
    """A name's number, to fold into a key: the first 8 bytes of its SHA-256."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)
