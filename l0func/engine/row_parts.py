"""Rows in parts: rows that read different numbers out of their inputs run apart.

A module may branch on its integer or boolean inputs, such as a padding mask: ``if mask.all()``.
vmap runs the module once for all rows, so the rows are sorted by what they read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from l0func.engine.row import Row, RowResult
from l0func.internal.context import compiling
from l0func.internal.mapped import join_chunks
from l0func.internal.untyped import untyped
from l0func.pure.reads import RowsDiffer


class RowPart(NamedTuple):
    """Rows that ran together.

    Attributes:
        rows: Their numbers in the chunk, shape ``(n,)``; None for a whole chunk.
        result: Their result.
    """

    rows: Tensor | None
    result: RowResult


@dataclass(frozen=True)
class RowRuns:
    """A row's function, run for all rows in a chunk.

    Args:
        row: The function.
        dims: The dimensions of rows in its key and tensors.
        map_rows: A function that maps a row's function over these dimensions.
    """

    row: Row
    dims: Sequence[int]
    map_rows: Callable[[Row, Sequence[int]], Callable[..., RowResult]]

    def of(self, chunk: list[Tensor]) -> list[RowPart]:
        """The results for a chunk, in one part or more."""
        run = self.map_rows(self.row, self.dims)
        if compiling():
            # A compiler hides the values, and stops at a read by itself.
            return [RowPart(None, run(*chunk))]
        try:
            return [RowPart(None, run(*chunk))]
        except RowsDiffer:
            # The parts run behind it: an error in one does not come from this one.
            pass
        rows = torch.arange(chunk[0].shape[0], device="cpu")
        return list(self._parts(run, rows, chunk))

    def _parts(
        self, run: Callable[..., RowResult], rows: Tensor, tensors: list[Tensor]
    ) -> Iterator[RowPart]:
        """The results for rows, apart where they read different values."""
        read = _read_values(run, tensors)
        if isinstance(read, tuple):
            yield RowPart(rows, read)
            return
        # The batch of a part is not whole.
        run_part = self.map_rows(replace(self.row, chunked=True), self.dims)
        for numbers in _equal_rows(read):
            own = [_rows_at(x, dim, numbers) for x, dim in zip(tensors, self.dims, strict=True)]
            yield from self._parts(run_part, rows[numbers], own)


def _read_values(run: Callable[..., RowResult], tensors: list[Tensor]) -> Tensor | RowResult:
    """The result for rows; or the values that they read and that differ, shape ``(n, k)``.

    Raises:
        RowsDiffer: The values depend on floats, such as masked weights, or are unknown.
    """
    origins = _Origins()
    try:
        with origins:
            return run(*tensors)
    except RowsDiffer as error:
        if error.values is None or origins.has_floats(error.read):
            raise
        return error.values.reshape(len(error.values), -1)


def _equal_rows(values: Tensor) -> list[Tensor]:
    """The numbers of the rows with equal values, for each value."""
    kinds: Tensor = untyped.unique(values.cpu(), dim=0, return_inverse=True)[1]
    numbers = range(int(kinds.max()) + 1)
    return [(kinds == number).nonzero().flatten() for number in numbers]


def _rows_at(x: Tensor, dim: int, numbers: Tensor) -> Tensor:
    return x.index_select(dim, numbers.to(x.device))


class _Origins(TorchFunctionMode):
    """A context that notes the integers and booleans that are computed from floats.

    It sees torch functions alone. A number that it misses only lets rows run apart.
    """

    def __init__(self) -> None:
        super().__init__()
        self._found: dict[int, Tensor] = {}

    def has_floats(self, tensor: Tensor) -> bool:
        """Whether the tensor holds floats or is computed from some."""
        is_exact = not tensor.is_floating_point() and not tensor.is_complex()
        return not is_exact or id(tensor) in self._found

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if any(map(self.has_floats, _nested_tensors((args, kwargs)))):
            self._found.update({id(x): x for x in _nested_tensors(result)})
        return result


def _nested_tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in lists, tuples and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _nested_tensors(list(cast("dict[Any, Any]", value).values()))
    elif isinstance(value, list | tuple):
        for item in cast("Sequence[Any]", value):
            yield from _nested_tensors(item)


def joined_rows(parts: Sequence[RowPart]) -> list[Tensor]:
    """The outputs with rows, from all parts of one chunk in the chunk's order.

    Raises:
        ValueError: The shapes of their rows differ.
    """
    found = [part.result[0] for part in parts]
    if parts[0].rows is None:
        return found[0]
    for own in found[1:]:
        _check_same_shapes(found[0], own)
    places = torch.cat([part.rows for part in parts if part.rows is not None]).argsort()
    return [_rows_at(x, 0, places) for x in join_chunks(found)]


def _check_same_shapes(first: Sequence[Tensor], other: Sequence[Tensor]) -> None:
    shapes = [[tuple(x.shape[1:]) for x in outputs] for outputs in (first, other)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "Forward reads numbers out of its inputs, and rows that read different numbers have "
            f"outputs of different shapes, {shapes[0]} and {shapes[1]}. Give all rows results of "
            "one shape, padded if need be."
        )
