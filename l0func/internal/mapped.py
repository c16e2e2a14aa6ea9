"""Pytrees with rows: taken apart for a map, cut into chunks, and put together again.

Rows are a batch's examples for PerExample, and a sweep's members for training.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from l0func.internal.names import check_names
from l0func.internal.tree import LEAVES, Level, leaves, level_of, rebuild


class _Place(NamedTuple):
    """A tensor's place in a pytree. Its rows are along ``dim``; None is a tensor without rows."""

    dim: int | None


class FlatMapped(NamedTuple):
    """A pytree taken apart into tensors with rows and tensors without."""

    template: Any
    """The pytree with a place for each tensor."""

    tensors: list[Tensor]
    """The tensors with rows."""

    dims: list[int]
    """For each of these tensors its row dimension."""

    unmapped: list[Tensor]
    """The tensors without rows."""

    def mapped(self) -> Iterable[tuple[Tensor, int]]:
        """The tensors with rows, each with its row dimension."""
        return zip(self.tensors, self.dims, strict=True)

    def rebuilt(self, tensors: Iterable[Tensor], unmapped: Iterable[Tensor] | None = None) -> Any:
        """The pytree with other tensors in the same places.

        Args:
            tensors: Replacements for the tensors with rows, in their order.
            unmapped: Replacements for the tensors without rows; None keeps them.
        """
        shared = self.unmapped if unmapped is None else unmapped
        return _filled(self.template, iter(tensors), iter(shared))


def _filled(template: Any, rows: Iterator[Tensor], shared: Iterator[Tensor]) -> Any:
    if isinstance(template, _Place):
        return next(shared if template.dim is None else rows)
    level = level_of(template)
    if level is None:
        return template
    return level.unflatten([_filled(child, rows, shared) for child in level.children])


def flatten_mapped(value: Any, dims: Any, label: str, /) -> FlatMapped:
    """Take a pytree apart by its row dimensions.

    Args:
        value: Any pytree with tensors and constants.
        dims: The dimension where every tensor has its rows, or None for tensors without rows. Or
            a pytree of these: a prefix of ``value`` with one entry for each subtree.
        label: A name for ``dims`` in an error.

    Raises:
        ValueError: ``dims`` does not fit ``value``, or a dimension does not fit its tensor.
        TypeError: A leaf is neither a tensor nor a constant.
    """
    flat = FlatMapped(None, [], [], [])
    return flat._replace(template=_place(value, dims, label, flat))


def _place(value: Any, dims: Any, label: str, flat: FlatMapped) -> Any:
    """The template of a pytree; its tensors and their dimensions are appended to ``flat``."""
    if isinstance(value, Tensor):
        return _place_tensor(value, dims, label, flat)
    level = level_of(value)
    if level is None:
        _check_constant(value)
        return value
    own = _dims_of_children(value, level, dims, label)
    pairs = zip(level.children, own, strict=True)
    return level.unflatten([_place(child, dim, label, flat) for child, dim in pairs])


def _check_constant(value: Any) -> None:
    if not isinstance(value, LEAVES):
        raise TypeError(
            f"Inputs and outputs of a row are pytrees of tensors and constants; got "
            f"{type(value).__name__}."
        )


def _dims_of_children(value: Any, level: Level, dims: Any, label: str) -> list[Any]:
    """The entry in ``dims`` for each child of a container."""
    count = len(level.children)
    if dims is None or isinstance(dims, int):
        return [dims] * count
    kind: str = type(value).__name__
    if isinstance(dims, Mapping) and isinstance(value, Mapping):
        named = cast("Mapping[Any, Any]", dims)
        by_name = {str(name): dim for name, dim in named.items()}
        check_names(by_name, level.names, f"The {kind} that {label} describes")
        return [by_name[name] for name in level.names]
    inner = level_of(dims)
    if inner is None or len(inner.children) != count:
        raise ValueError(f"{label} {dims!r} does not fit the {count} parts of a {kind}.")
    return inner.children


def _place_tensor(tensor: Tensor, dim: Any, label: str, flat: FlatMapped) -> _Place:
    """A tensor's place; the tensor itself is appended to ``flat``."""
    if dim is None:
        flat.unmapped.append(tensor)
        return _Place(None)
    if not isinstance(dim, int) or not -tensor.dim() <= dim < tensor.dim():
        raise ValueError(
            f"{label} names dimension {dim!r} of a tensor of shape {tuple(tensor.shape)}, "
            "and there is no such dimension."
        )
    positive = dim % tensor.dim()
    flat.tensors.append(tensor)
    flat.dims.append(positive)
    return _Place(positive)


def split_chunks(
    tensors: Sequence[Tensor], dims: Sequence[int], size: int | None, /
) -> list[list[Tensor]]:
    """Cut tensors into chunks along their rows, for a map that computes one chunk at a time.

    Args:
        tensors: Tensors with equally many rows, at least one tensor.
        dims: For each tensor its row dimension.
        size: Rows in a chunk; the last chunk may have fewer. None is all rows.

    Returns:
        For each chunk its tensors, ordered as ``tensors``.
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
    """Join the results for all chunks, the inverse of :func:`split_chunks`.

    Args:
        results: For each chunk a pytree; all tensors have rows along dimension 0.

    Returns:
        A pytree with the same structure; each tensor holds the rows from all chunks.
    """
    if len(results) == 1:
        return results[0]
    named = [leaves(result, "a chunk's result") for result in results]
    whole = {path: torch.cat([own[path] for own in named]) for path in named[0]}
    return rebuild(results[0], whole)
