"""Pytrees with rows: taken apart for a map, cut into chunks, and put together again.

Rows are a batch's examples for PerExample, and a sweep's members for training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from l0func.internal.context import compiling, is_mapped_with
from l0func.internal.hidden import is_tensor
from l0func.internal.names import check_names
from l0func.internal.objects import is_object, structure_of, visible_level
from l0func.internal.outputs import Trail, check_leaf, check_no_cycle, place_of
from l0func.internal.tree import LEAVES, Level, leaves, rebuild


class _Place(NamedTuple):
    """A tensor's place in a pytree. Its rows are along ``dim``; None is a tensor without rows."""

    dim: int | None


class _Branch(NamedTuple):
    """A container in a template: the templates of its children, and its :class:`Level`'s rebuild.

    The container is built only once, from real tensors: its class may check them.
    """

    children: list[Any]
    unflatten: Callable[[list[Any]], Any]


class FlatMapped(NamedTuple):
    """A pytree taken apart into tensors with rows and tensors without."""

    template: Any
    """The pytree with a place for each tensor, and a branch for each container."""

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
    if isinstance(template, _Branch):
        return template.unflatten([_filled(child, rows, shared) for child in template.children])
    return template


def flatten_mapped(
    value: Any,
    dims: Any,
    dims_label: str,
    /,
    label: str = "value",
    row: Tensor | None = None,
) -> FlatMapped:
    """Take a pytree apart by its row dimensions.

    Args:
        value: Containers and objects with tensors; every other leaf is the same for all rows.
        dims: The dimension where every tensor has its rows, or None for tensors without rows. Or
            a pytree of these: a prefix of ``value`` with one entry for each subtree.
        dims_label: A name for ``dims`` in an error.
        label: A name for ``value`` in an error.
        row: A tensor that the vmap over rows maps: a number that it does not map, such as a count
            in a cache, has no rows.

    Raises:
        ValueError: ``dims`` does not fit ``value``, or a dimension does not fit its tensor.
        TypeError: An object that cannot be taken apart holds tensors.
    """
    places = _Collected(dims_label, label, row, [], [], [])
    template = places.put_in(value, dims, ())
    return FlatMapped(template, places.tensors, places.dims, places.unmapped)


class _Collected(NamedTuple):
    """The tensors of a value, collected while its template is made; see :class:`FlatMapped`."""

    dims_label: str
    label: str
    row: Tensor | None
    tensors: list[Tensor]
    dims: list[int]
    unmapped: list[Tensor]

    def put_in(self, value: Any, dims: Any, trail: Trail) -> Any:
        """The template of a value; its tensors and their dimensions are collected."""
        if isinstance(value, Tensor):
            return self._place(value, dims, trail)
        level = visible_level(value)
        if level is None:
            if dims is not None:
                self._check_constant(value, trail)
            return value
        check_no_cycle(value, self.label, trail)
        own = _dims_of_children(value, level, dims, self.dims_label)
        children: list[Any] = []
        for name, child, dim in zip(level.names, level.children, own, strict=True):
            children.append(self.put_in(child, dim, (*trail, (value, name))))
        return _Branch(children, level.unflatten)

    def _check_constant(self, value: Any, trail: Trail) -> None:
        if compiling() and not isinstance(value, LEAVES):
            raise TypeError(
                "Inside torch.compile, the inputs and outputs of a row are tensors, constants, "
                f"dicts, lists and tuples; got {type(value).__name__}. Leave per_example out of "
                "the compiled function, or return a dict."
            )
        shared = " Or give it None in in_dims, if all rows share it."
        advice = shared if self.dims_label == "in_dims" else ""
        check_leaf(value, self.label, trail, is_tensor, advice)
        if isinstance(value, torch.Size):
            raise TypeError(
                f"{place_of(self.label, trail)} is a torch.Size, {tuple(value)}: the size of one "
                "row, and not of the batch. Return the tensors that it describes, without it; "
                "for a torch.distributions object return its parameters."
            )

    def _place(self, tensor: Tensor, dim: Any, trail: Trail) -> _Place:
        """A tensor's place; the tensor itself is collected."""
        if dim is None or (tensor.dim() == 0 and self._is_shared(tensor)):
            self.unmapped.append(tensor)
            return _Place(None)
        if not isinstance(dim, int) or not -tensor.dim() <= dim < tensor.dim():
            place = f", {place_of(self.label, trail)}," if trail else ""
            raise ValueError(
                f"{self.dims_label} names dimension {dim!r} of a tensor of shape "
                f"{tuple(tensor.shape)}{place} and there is no such dimension."
                f"{_advice_on_dims(tensor, dim, self.dims_label, trail)}"
            )
        positive = dim % tensor.dim()
        self.tensors.append(tensor)
        self.dims.append(positive)
        return _Place(positive)

    def _is_shared(self, tensor: Tensor) -> bool:
        return self.row is not None and not is_mapped_with(self.row, [tensor])


BY_POSITION = (
    "A keyword input has its rows along dimension 0, and in_dims has no entry for it: pass one "
    "that all rows share by position, with None at its place in in_dims."
)
"""What to do about a keyword input without rows."""


def _advice_on_dims(tensor: Tensor, dim: Any, dims_label: str, trail: Trail) -> str:
    if dims_label == "in_dims":
        is_keyword = bool(trail) and trail[0][1] == "kwargs"
        return f" {BY_POSITION if is_keyword else 'Give an input that all rows share None there.'}"
    if dims_label == "out_dims" and isinstance(dim, int) and not tensor.dim():
        return (
            " A row's own number needs a dimension of rows: return it as x[None]. A loss that "
            "forward computes from labels: leave the labels out, and compute it from the outputs."
        )
    return ""


def _dims_of_children(value: Any, level: Level, dims: Any, label: str) -> list[Any]:
    """The entry in ``dims`` for each child of a container."""
    if dims is None or isinstance(dims, int):
        return [dims] * len(level.children)
    kind: str = type(value).__name__
    named = _named_dims(value, dims)
    if named is not None:
        if type(dims) is type(value) and type(value) is not dict:
            # A ModelOutput leaves out the fields that are None.
            named = dict.fromkeys(level.names) | named
        check_names(named, level.names, label, f"the {kind} that it describes")
        return [named[name] for name in level.names]
    inner = structure_of(dims)
    count = len(level.children)
    if inner is None or len(inner.children) != count:
        raise ValueError(f"{label} {dims!r} does not fit the {count} parts of a {kind}.")
    return inner.children


def _named_dims(value: Any, dims: Any) -> dict[str, Any] | None:
    """Dimensions by name, from a mapping or from an object of the value's class."""
    if isinstance(dims, Mapping):
        mapping = cast("Mapping[Any, Any]", dims)
        return {str(name): dim for name, dim in mapping.items()}
    if type(dims) is type(value) and is_object(value):
        inner = structure_of(dims)
        return None if inner is None else dict(zip(inner.names, inner.children, strict=True))
    return None


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
