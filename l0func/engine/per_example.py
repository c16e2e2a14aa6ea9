"""A mask for every row: :func:`per_example` maps a gated function over keys and rows.

It is the library's only ``torch.vmap`` over rows. Inside it each row is a :class:`Row`: it calls
the gated function as a batch of one, under its own key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, NamedTuple

import torch
from torch import Tensor

from l0func.engine.arguments import (
    check_axes,
    check_chunk_size,
    check_gated,
    check_keys_argument,
    check_not_exported,
)
from l0func.engine.gated import OutputT
from l0func.engine.kept import watch_hooks
from l0func.engine.no_rows import emptied, placeholders
from l0func.engine.on_shards import (
    WHOLE_ROWS,
    GatedOnShards,
    check_not_compiled,
    check_rows_fit_shards,
    has_dtensors,
)
from l0func.engine.row import Axis, Row, RowResult
from l0func.engine.row_errors import in_words_of_rows
from l0func.engine.row_keys import (
    check_keys_of_rows,
    check_number_of_rows,
    check_one_mask,
    check_rows_of_gates,
    has_several_masks,
    map_over_masks,
)
from l0func.engine.row_parts import RowPart, RowRuns, joined_rows
from l0func.internal import tree
from l0func.internal.mapped import BY_POSITION, flatten_mapped, join_chunks, split_chunks
from l0func.internal.scalars import integer
from l0func.internal.shared import same_for_all
from l0func.internal.tree import Tree
from l0func.internal.whole import check_whole


class _Arguments(NamedTuple):
    inputs: tuple[Any, ...]
    kwargs: dict[str, Any]
    gates: Tree


class PerExample(Generic[OutputT]):
    """A gated function for a batch of keys, made by :func:`per_example`.

    Call it as ``rows(params, gates, buffers, keys, *inputs, **kwargs)``.
    """

    def __init__(
        self,
        apply: Callable[..., OutputT],
        in_dims: Axis = 0,
        out_dims: Axis = 0,
        chunk_size: int | None = None,
        gate_dims: int | None = None,
    ) -> None:
        self.apply = apply
        self.in_dims = in_dims
        self.out_dims = out_dims
        self.chunk_size = chunk_size
        self.gate_dims = gate_dims

    def __call__(
        self,
        params: Tree,
        gates: Tree,
        buffers: Tree,
        keys: Tensor,
        /,
        *inputs: Any,
        **kwargs: Any,
    ) -> OutputT:
        """The outputs, row ``i`` under the masks of ``keys[i]``.

        Keys of shape ``(B, M, 2)`` give each row M masks: the inputs stay ``(B, ...)``, the
        outputs become ``(B, M, ...)``, and ``output[:, m]`` is the output under ``keys[:, m]``.

        Updates of buffers, such as BatchNorm's running statistics in training mode, are dropped,
        with one warning: train with :meth:`with_buffers`, and evaluate behind ``fn.eval()``.

        Args:
            params: Parameters, flat or nested.
            gates: ``{gate name: log_alpha}``.
            buffers: Buffers, flat or nested.
            keys: A key for every row, shape ``(B, 2)``: ``l0func.random.split(key, B)``. Or M
                keys for every row, shape ``(B, M, 2)``. B may be 0: the outputs then have no rows,
                and all gradients are zero.
            *inputs: Inputs, with rows along the dimension that ``in_dims`` gives.
            **kwargs: Keyword inputs; every tensor in them has its rows along dimension 0.

        Returns:
            The function's output, with rows along the dimension that ``out_dims`` gives, and M
            masks along the next one. Objects keep their classes; values other than tensors are as
            one row gave them.

        Raises:
            TypeError: ``keys`` are not keys; or an input or output holds tensors in an object that
                cannot be taken apart.
            ValueError: The number of keys is not the number of rows, keys have another shape, or
                an output without rows differs between rows or masks; or as for a plain call.

        Example:
            The mean and the variance over M = 50 masks for each of B = 4 examples:

            >>> import l0func as l0
            >>> fn, params, buffers = l0.make_functional(torch.nn.Linear(3, 2))
            >>> spec = l0.gate_spec(params)
            >>> gates = l0.init_gates(l0.random.key(0), spec)
            >>> rows = l0.per_example(l0.gated(fn, spec))
            >>> keys = l0.random.split(l0.random.split(l0.random.key(1), 4), 50)
            >>> output = rows(params, gates, buffers, keys, torch.ones(4, 3))
            >>> output.shape
            torch.Size([4, 50, 2])
            >>> variance, mean = torch.var_mean(output, dim=1)
            >>> mean.shape
            torch.Size([4, 2])
        """
        return self._map(self.apply, self.out_dims, params, gates, buffers, keys, inputs, kwargs)

    def with_buffers(
        self,
        params: Tree,
        gates: Tree,
        buffers: Tree,
        keys: Tensor,
        /,
        *inputs: Any,
        **kwargs: Any,
    ) -> tuple[OutputT, dict[str, Tensor]]:
        """``(outputs, new buffers)``: the same call, with the module's updated buffers.

        BatchNorm in training mode sees the whole batch, so its running statistics are one update
        for all rows.

        Args:
            params: Parameters, flat or nested.
            gates: ``{gate name: log_alpha}``.
            buffers: Buffers, flat or nested.
            keys: A key for every row, shape ``(B, 2)``; several masks for a row are refused,
                because each would update the buffers in its own way.
            *inputs: Inputs, with rows along the dimension that ``in_dims`` gives.
            **kwargs: Keyword inputs; every tensor in them has its rows along dimension 0.

        Returns:
            The outputs, and a flat dict of all buffers, shared by all rows.

        Raises:
            TypeError: The function has no ``with_buffers``, or ``keys`` are not keys.
            ValueError: A buffer would differ from row to row, or a row has several keys; or as
                for a plain call.
        """
        if not hasattr(self.apply, "with_buffers"):
            raise TypeError(
                "with_buffers needs a function made by l0func.gated; this one returns no buffers."
            )
        check_one_mask(keys)
        apply: Any = self.apply
        out_dims = (self.out_dims, None)
        given = params, gates, buffers, keys, inputs, kwargs
        output, updated = self._map(apply.with_buffers, out_dims, *given)
        # No row has changed a buffer, and placeholders may have.
        return output, updated if keys.shape[0] else tree.leaves(buffers, "buffers")

    def _map(
        self,
        apply: Callable[..., Any],
        out_dims: Axis,
        params: Tree,
        gates: Tree,
        buffers: Tree,
        keys: Tensor,
        inputs: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Call ``apply`` on every row, one chunk at a time."""
        check_not_compiled(params, gates)
        check_not_exported()
        check_keys_argument(keys)
        if has_dtensors(params, gates):
            own = check_rows_fit_shards(apply, self.gate_dims)
            on_shards = GatedOnShards(own, params, gates)
            apply, params, gates = on_shards.mapped(apply), on_shards.params, on_shards.gates
        check_whole("per_example", WHOLE_ROWS, buffers=buffers, inputs=inputs, kwargs=kwargs)
        check_keys_of_rows(keys)
        if self.gate_dims is not None:
            check_rows_of_gates(keys, gates, self.gate_dims)
        dims = (
            input_dims(self.in_dims, len(inputs), kwargs),
            dict.fromkeys(kwargs, 0),
            self.gate_dims,
        )
        arguments = flatten_mapped(_Arguments(inputs, kwargs, gates), dims, "in_dims", "")
        check_number_of_rows(keys, arguments, kwargs)
        several = has_several_masks(keys)
        kept = watch_hooks(self.apply)
        row = Row(
            apply,
            params,
            buffers,
            arguments,
            out_dims,
            gate_dims=self.gate_dims,
            chunked=self.chunk_size is not None,
            several_masks=several,
            note=None if kept is None else kept.note,
        )
        in_dims = (0, *arguments.dims)
        runs = RowRuns(row, in_dims, _map_rows)
        has_rows = keys.shape[0] > 0
        tensors = (keys, *arguments.tensors)
        whole = tensors if has_rows else placeholders(tensors, in_dims)
        parts = _run_chunks(runs, split_chunks(whole, in_dims, self.chunk_size))
        if kept is not None:
            kept.end()
        rows = join_chunks([joined_rows(own) for own in parts])
        if not has_rows:
            rows = emptied(rows, (params, gates, list(arguments.tensors)))
        results = [part.result for own in parts for part in own]
        batch, form = keys.dim() - 1, results[0][2]
        copies = zip(*[shared for _, shared, _ in results], strict=True)
        return form.rebuilt(rows, [same_for_all(chunks, batch) for chunks in copies], batch)

    def __repr__(self) -> str:
        return f"PerExample({self.apply!r}, in_dims={self.in_dims}, out_dims={self.out_dims})"


def per_example(
    apply: Callable[..., OutputT],
    in_dims: Axis = 0,
    out_dims: Axis = 0,
    chunk_size: int | None = None,
    gate_dims: int | None = None,
) -> PerExample[OutputT]:
    """Give every row of a batch its own masks.

    Each row is presented to the module as a batch of one, under the masks of its own key.
    BatchNorm in training mode normalises by the whole batch; dropout draws from the row's key.

    Params may be DTensors, such as those of tensor parallelism, with gates from
    :func:`l0func.place_gates`. Every process then passes the same keys and rows, as plain tensors,
    and gets the whole outputs. It draws the gates of its own slices, with the masks that one
    process would have. A linear layer with a sharded weight sends its outputs once, for all rows;
    other operations put the whole product of weight and mask together. Over DTensors it runs
    eagerly: torch.compile is refused.

    Args:
        apply: ``apply(params, gates, buffers, key, *inputs, **kwargs)``, from :func:`gated`.
        in_dims: Where the rows are in the inputs by position: one dimension for all, or a tuple
            with an entry (a dimension or a pytree) for each; None for an input that all rows
            share. Keyword inputs have no entry, and their rows along dimension 0.
        out_dims: Where the rows are in the outputs: one dimension for all, or a pytree in the
            output's structure, a dict of names for an object; None for an output that is the same
            for all rows. Several masks stand along the next dimension; a negative dimension counts
            in the output for one mask.
        chunk_size: Rows to compute at once; None is all. Smaller chunks take less memory, and the
            draws stay the same.
        gate_dims: Where the rows are in every gate vector, if each example has its own gates,
            such as gates that a network computes from it; None if all rows share the gates.

    Returns:
        ``rows(params, gates, buffers, keys, *inputs, **kwargs)``. Keys of shape ``(B, 2)`` give
        outputs ``(B, ...)``; keys of shape ``(B, M, 2)`` give M masks for every row, and outputs
        ``(B, M, ...)``. ``rows.with_buffers`` also returns the new buffers, for one mask a row.

    Raises:
        TypeError: ``apply`` is no gated function, or a dimension or ``chunk_size`` has another
            type.
        ValueError: ``chunk_size`` is not positive.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> fn, params, buffers = l0.make_functional(torch.nn.Linear(3, 2))
        >>> spec = l0.gate_spec(params)
        >>> gates = l0.init_gates(l0.random.key(0), spec)
        >>> apply = l0.gated(fn, spec)
        >>> keys, x = l0.random.split(l0.random.key(1), 4), torch.ones(4, 3)
        >>> rows = l0.per_example(apply)(params, gates, buffers, keys, x)
        >>> alone = apply(params, gates, buffers, keys[2], x[2:3])  # row 2 has the mask of key 2
        >>> torch.allclose(rows[2], alone[0])
        True
    """
    _check_not_mapped(apply)
    check_gated(apply)
    check_axes("in_dims", in_dims)
    check_axes("out_dims", out_dims)
    check_chunk_size(chunk_size)
    if gate_dims is not None:
        integer(gate_dims, "gate_dims")
    return PerExample(apply, in_dims, out_dims, chunk_size, gate_dims)


def _check_not_mapped(apply: Any) -> None:
    if isinstance(apply, PerExample):
        raise TypeError(
            "per_example maps a gated function; this one is mapped already. For M masks in each "
            "row call rows with keys of shape (B, M, 2): "
            "l0func.random.split(l0func.random.split(key, B), M)."
        )


def _map_rows(row: Row, in_dims: Sequence[int]) -> Callable[..., RowResult]:
    """The map over all rows, and over their masks if there are several."""
    # The form of the output is no tensor; vmap hands it through under an out_dims of None.
    result_dims: Any = (0, 0, None)

    def run(*tensors: Tensor) -> RowResult:
        # vmap asks for the function's name, and torch 2.9 compiles no method's.
        return row.run(*tensors)

    mapped = torch.vmap(run, tuple(in_dims), result_dims)
    return map_over_masks(mapped, in_dims) if row.several_masks else mapped


def _run_chunks(runs: RowRuns, chunks: Iterable[list[Tensor]]) -> list[list[RowPart]]:
    try:
        return [runs.of(chunk) for chunk in chunks]
    except (RuntimeError, TypeError) as error:
        in_words = in_words_of_rows(error)
        if in_words is None:
            raise
        raise in_words from error


def input_dims(in_dims: Axis, count: int, keywords: Iterable[str] = (), /) -> Sequence[Axis]:
    """The entry in ``in_dims`` for each input by position; ``keywords`` names the others."""
    if in_dims is None or isinstance(in_dims, int):
        return (in_dims,) * count
    if len(in_dims) != count:
        named = ", ".join(map(repr, keywords))
        others = f" Given by keyword: {named}. {BY_POSITION}" if named else ""
        raise ValueError(
            f"in_dims has {len(in_dims)} entries for {count} inputs by position; give one for "
            f"each, or one for all.{others}"
        )
    return in_dims
