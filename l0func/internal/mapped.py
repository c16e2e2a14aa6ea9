"""Pytrees with a dimension of rows or members: taken apart for a map, and put together again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from l0func.internal.names import check_names
from l0func.internal.tree import LEAVES, leaves, level_of, rebuild


class _Place(NamedTuple):
    """The place of a tensor with rows along ``dim``, or without rows."""

    dim: int | None


class FlatMapped(NamedTuple):
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
    level = level_of(template)
    return (
        template
        if level is None
        else level.unflatten([_filled(child, rows, shared) for child in level.children])
    )


def flatten_mapped(value: Any, dims: Any, what: str, /) -> FlatMapped:
    """Take a pytree apart by where its rows are.

    Args:
        value: Any pytree of tensors and constants.
        dims: A dimension, None, or a pytree of them, a prefix of ``value``.
        what: What to call ``dims`` in an error.

    Raises:
        ValueError: ``dims`` does not fit ``value``, or a dimension does not fit its tensor.
        TypeError: A leaf is neither a tensor nor a constant.
    """
    parts = FlatMapped(None, [], [], [])
    return parts._replace(template=_place(value, dims, what, parts))


def _place(value: Any, dims: Any, what: str, parts: FlatMapped) -> Any:
    if isinstance(value, Tensor):
        return _place_tensor(value, dims, what, parts)
    level = level_of(value)
    if level is None:
        if not isinstance(value, LEAVES):
            raise TypeError(
                f"Inputs and outputs of a row are pytrees of tensors and constants; got "
                f"{type(value).__name__}."
            )
        return value
    own = [dims] * len(level.children)
    kind: str = type(value).__name__
    if isinstance(dims, Mapping) and isinstance(value, Mapping):
        by_name = {str(name): dim for name, dim in cast("Mapping[Any, Any]", dims).items()}
        check_names(by_name, level.names, f"A {kind} that {what} is for")
        own = [by_name[name] for name in level.names]
    elif dims is not None and not isinstance(dims, int):
        inner = level_of(dims)
        if inner is None or len(inner.children) != len(level.children):
            raise ValueError(
                f"{what} {dims!r} does not fit the {len(level.children)} parts of a {kind}."
            )
        own = inner.children
    return level.unflatten(
        [_place(child, d, what, parts) for child, d in zip(level.children, own, strict=True)]
    )


def _place_tensor(tensor: Tensor, dim: Any, what: str, parts: FlatMapped) -> _Place:
    if dim is None:
        parts.unmapped.append(tensor)
        return _Place(None)
    if not isinstance(dim, int) or not -tensor.dim() <= dim < tensor.dim():
        raise ValueError(
            f"{what} names dimension {dim!r} of a tensor of shape {tuple(tensor.shape)}."
        )
    parts.tensors.append(tensor)
    parts.dims.append(dim % tensor.dim())
    return _Place(dim % tensor.dim())


def split_chunks(
    tensors: Sequence[Tensor], dims: Sequence[int], size: int | None, /
) -> list[list[Tensor]]:
    """Cut tensors into chunks of rows, for a map that computes one chunk at a time.

    Args:
        tensors: Tensors with the same number of rows, at least one tensor.
        dims: The dimension of rows of each tensor.
        size: Rows of a chunk; the last chunk may have fewer. None is all rows.

    Returns:
        For each chunk its tensors, in the order of ``tensors``.
    """
    rows = tensors[0].shape[dims[0]]
    if size is None or size >= rows:
        # Uncut: the backward pass of a narrow allocates a zero tensor as large as the whole input.
        return [list(tensors)]
    pairs = list(zip(tensors, dims, strict=True))
    found: list[list[Tensor]] = []
    for start in range(0, rows, size):
        length = min(size, rows - start)
        found.append([x.narrow(d, start, length) for x, d in pairs])
    return found


def join_chunks(results: Sequence[Any], /) -> Any:
    """Join the results of all chunks, the inverse of :func:`split_chunks`.

    Args:
        results: For each chunk a pytree of tensors with rows along dimension 0.

    Returns:
        A pytree of the same structure; each tensor holds the rows of all chunks.
    """
    if len(results) == 1:
        return results[0]
    named = [leaves(result, "a chunk's result") for result in results]
    whole = {path: torch.cat([own[path] for own in named]) for path in named[0]}
    return rebuild(results[0], whole)
