"""Flat views of parameter pytrees: dotted paths, patterns over them, and the way back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import optree
import torch
from torch import Tensor

Value = TypeVar("Value")
Tree = Any
"""A flat ``{path: Tensor}``, or any pytree of tensors; the paths of a nested one are dotted."""

_LEAVES = (Tensor, type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)


def leaves(tree: Tree, /, what: str = "params") -> dict[str, Tensor]:
    """The tensors of a pytree under their dotted paths.

    Args:
        tree: A flat dict of tensors, or nested dicts, lists and tuples of them. A leaf that is None is not there.
        what: What to call the tree in an error.

    Returns:
        A new dict, in the order of the tree.

    Raises:
        TypeError: A leaf is not a tensor.
        ValueError: Two leaves have the same dotted path.
    """
    named: dict[str, Tensor] = {}
    for path, leaf in walk(tree):
        if not isinstance(leaf, Tensor):
            raise TypeError(f"The leaves of {what} are tensors; {path!r} is {type(leaf).__name__}.")
        if path in named:
            raise ValueError(f"Two leaves of {what} have the same dotted path, {path!r}.")
        named[path] = leaf
    return named


def rebuild(tree: Tree, named: Mapping[str, Tensor], /) -> Tree:
    """A pytree of the structure of ``tree`` with the tensors of ``named`` under its paths."""
    return _mapped("", tree, lambda path, leaf: named[path])


class _Level(NamedTuple):
    """One level of a pytree: names and values of its children, and the way back."""

    names: list[str]
    children: list[Any]
    unflatten: Callable[[list[Any]], Any]


def _level(value: Any) -> _Level | None:
    """The children of a container, or None for a leaf."""
    # Builtin containers by hand: torch.compile does not follow optree through a dict.
    if isinstance(value, _LEAVES):
        return None
    container = value
    kind = cast("Any", type(container))
    if kind in (dict, OrderedDict):
        return _Level([str(key) for key in container], list(container.values()), partial(_to_dict, kind, list(container)))
    if _is_namedtuple(container):
        return _Level(list(kind._fields), list(container), kind._make)
    if kind in (list, tuple):
        return _Level([str(i) for i in range(len(container))], list(container), kind)
    if optree.tree_is_leaf(container, none_is_leaf=True):
        return None
    custom: Any = optree.tree_flatten_one_level(container, none_is_leaf=True)
    names = [str(entry) for entry in custom.entries]
    return _Level(names, list(custom.children), partial(custom.unflatten_func, custom.metadata))


def map_tensors(function: Callable[[Tensor], Tensor], value: Any, /) -> Any:
    """A pytree with every tensor of it changed; other leaves stay."""
    return _mapped("", value, lambda path, leaf: function(leaf) if isinstance(leaf, Tensor) else leaf)


def _is_namedtuple(value: Any) -> bool:
    return hasattr(value, "_fields") and isinstance(value, tuple)


def _to_dict(kind: Any, keys: list[Any], values: list[Any]) -> Any:
    return kind(zip(keys, values, strict=True))


def walk(value: Any, /, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted paths and leaves of a pytree; a leaf that is None is not there."""
    level = _level(value)
    if level is None:
        if value is not None:
            yield path, value
        return
    for name, child in zip(level.names, level.children, strict=True):
        yield from walk(child, f"{path}.{name}" if path else name)


def _mapped(path: str, value: Any, function: Callable[[str, Any], Any]) -> Any:
    level = _level(value)
    if level is None:
        return None if value is None else function(path, value)
    pairs = zip(level.names, level.children, strict=True)
    return level.unflatten([_mapped(f"{path}.{name}" if path else name, child, function) for name, child in pairs])


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
        raise ValueError(f"{what} has no {name!r}{closest(name, sorted(expected - got) or sorted(expected))}.")
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


def per_path(setting: Value | Mapping[str, Value], paths: Iterable[str], /, what: str, of: str) -> dict[str, Value]:
    """A setting for each path, from one value for all or from a value for each pattern; the first match wins.

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
                f"No pattern gives {what} to the {of} {path!r}; the patterns are {sorted(patterns)}. "
                "Add one that matches it, or '*' for the rest."
            )
    return {path: value[0] for path, value in found.items()}


class _Place(NamedTuple):
    """The place of a tensor with rows along ``dim``, or without rows."""

    dim: int | None


class Axed(NamedTuple):
    """A pytree taken apart into tensors with a dimension of rows and tensors without."""

    template: Any
    tensors: list[Tensor]
    dims: list[int]
    unmapped: list[Tensor]

    def mapped(self) -> Iterable[tuple[Tensor, int]]:
        """The tensors with rows, each with its dimension."""
        return zip(self.tensors, self.dims, strict=True)

    def rebuilt(self, tensors: Iterable[Tensor], unmapped: Iterable[Tensor] | None = None) -> Any:
        """The pytree with other tensors in the places of these."""
        rows, shared = iter(tensors), iter(self.unmapped if unmapped is None else unmapped)
        return _filled(self.template, rows, shared)


def _filled(template: Any, rows: Iterator[Tensor], shared: Iterator[Tensor]) -> Any:
    if isinstance(template, _Place):
        return next(shared if template.dim is None else rows)
    level = _level(template)
    return template if level is None else level.unflatten([_filled(child, rows, shared) for child in level.children])


def axed(value: Any, dims: Any, what: str, /) -> Axed:
    """Take a pytree apart by where its rows are.

    Args:
        value: Any pytree of tensors and constants.
        dims: A dimension, None, or a pytree of them, a prefix of ``value``.
        what: What to call ``dims`` in an error.

    Raises:
        ValueError: ``dims`` does not fit ``value``, or a dimension does not fit its tensor.
        TypeError: A leaf is neither a tensor nor a constant.
    """
    parts = Axed(None, [], [], [])
    return parts._replace(template=_place(value, dims, what, parts))


def _place(value: Any, dims: Any, what: str, parts: Axed) -> Any:
    if isinstance(value, Tensor):
        return _place_tensor(value, dims, what, parts)
    level = _level(value)
    if level is None:
        if not isinstance(value, _LEAVES):
            raise TypeError(f"Inputs and outputs of a row are pytrees of tensors and constants; got {type(value).__name__}.")
        return value
    own = [dims] * len(level.children)
    kind: str = type(value).__name__
    if isinstance(dims, Mapping) and isinstance(value, Mapping):
        by_name = {str(name): dim for name, dim in cast("Mapping[Any, Any]", dims).items()}
        check_names(by_name, level.names, f"A {kind} that {what} is for")
        own = [by_name[name] for name in level.names]
    elif dims is not None and not isinstance(dims, int):
        inner = _level(dims)
        if inner is None or len(inner.children) != len(level.children):
            raise ValueError(f"{what} {dims!r} does not fit the {len(level.children)} parts of a {kind}.")
        own = inner.children
    return level.unflatten([_place(child, d, what, parts) for child, d in zip(level.children, own, strict=True)])


def _place_tensor(tensor: Tensor, dim: Any, what: str, parts: Axed) -> _Place:
    if dim is None:
        parts.unmapped.append(tensor)
        return _Place(None)
    if not isinstance(dim, int) or not -tensor.dim() <= dim < tensor.dim():
        raise ValueError(f"{what} names dimension {dim!r} of a tensor of shape {tuple(tensor.shape)}.")
    parts.tensors.append(tensor)
    parts.dims.append(dim % tensor.dim())
    return _Place(dim % tensor.dim())
