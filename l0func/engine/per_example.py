"""A mask for every row of a batch: each row of a vmap runs under its own key."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from l0func import random
from l0func.internal import tree
from l0func.internal.mapped import FlatMapped, flatten_mapped
from l0func.internal.tree import Tree
from l0func.pure.by_row import ByRow

Axis: TypeAlias = Any
"""A dimension, None, or a pytree of them, as torch.vmap takes it."""


class PerExample:
    """What :func:`per_example` returns: ``rows(params, gates, buffers, keys, *inputs, **kwargs)``."""

    def __init__(
        self,
        apply: Callable[..., Any],
        in_dims: Axis = 0,
        out_dims: Axis = 0,
        chunk_size: int | None = None,
        gate_dims: int | None = None,
    ) -> None:
        self.apply, self.in_dims, self.out_dims, self.chunk_size = (
            apply,
            in_dims,
            out_dims,
            chunk_size,
        )
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
    ) -> Any:
        """The outputs, row ``i`` under the masks of ``keys[i]``.

        Args:
            params: Parameters, flat or nested.
            gates: ``{gate name: log_alpha}``.
            buffers: Buffers, flat or nested.
            keys: A key for every row, shape ``(B, 2)``: ``l0func.random.split(key, B)``.
            *inputs: Inputs, with a dimension of rows as ``in_dims`` says.
            **kwargs: Keyword inputs; every tensor in them has its rows along dimension 0.

        Returns:
            What the function returns, with a dimension of rows as ``out_dims`` says.

        Raises:
            TypeError: ``keys`` are not keys.
            ValueError: The number of keys is not the number of rows; or as for a plain call.
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
    ) -> tuple[Any, dict[str, Tensor]]:
        """``(outputs, new buffers)``: BatchNorm in training mode sees the whole batch and gives
        its running statistics.

        Args:
            params: Parameters, flat or nested.
            gates: ``{gate name: log_alpha}``.
            buffers: Buffers, flat or nested.
            keys: A key for every row, shape ``(B, 2)``.
            *inputs: Inputs, with a dimension of rows as ``in_dims`` says.
            **kwargs: Keyword inputs; every tensor in them has its rows along dimension 0.

        Returns:
            The outputs, and a flat dict of all buffers, shared by all rows.

        Raises:
            TypeError: The function has no ``with_buffers``, or ``keys`` are not keys.
            ValueError: A buffer would differ from row to row; or as for a plain call.
        """
        if not hasattr(self.apply, "with_buffers"):
            raise TypeError(
                "with_buffers needs a function made by l0func.gated; this one returns no buffers."
            )
        out_dims = (self.out_dims, None)
        apply: Any = self.apply
        return self._map(
            apply.with_buffers, out_dims, params, gates, buffers, keys, inputs, kwargs
        )

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
        in_dims = self.in_dims
        dims = (in_dims,) * len(inputs) if in_dims is None or isinstance(in_dims, int) else in_dims
        if len(dims) != len(inputs):
            raise ValueError(
                f"in_dims has {len(dims)} entries for {len(inputs)} inputs; give one for each, or "
                f"one for all."
            )
        arguments = flatten_mapped(
            (inputs, kwargs, gates), (dims, dict.fromkeys(kwargs, 0), self.gate_dims), "in_dims"
        )
        rows = _count_rows(keys, arguments)
        output: list[FlatMapped] = []

        def row(key: Tensor, *tensors: Tensor) -> tuple[list[Tensor], list[Tensor]]:
            placed = [x.unsqueeze(d) for x, d in zip(tensors, arguments.dims, strict=True)]
            own_inputs, own_kwargs, own_gates = arguments.rebuilt(placed)
            if self.gate_dims is not None:
                own_gates = tree.map_tensors(self._own_gates, own_gates)
            with ByRow(key, chunked=self.chunk_size is not None):
                value = apply(params, own_gates, buffers, key, *own_inputs, **own_kwargs)
            output[:] = [flatten_mapped(value, out_dims, "out_dims")]
            return [
                _only_row(x, d) for x, d in zip(output[0].tensors, output[0].dims, strict=True)
            ], output[0].unmapped

        parts: list[tuple[list[Tensor], list[Tensor]]] = []
        size = self.chunk_size or rows
        for start in range(0, rows, size):
            length = min(size, rows - start)
            # Of a slice the backward pass writes a whole input of zeros.
            chunk = [
                x if length == rows else x.narrow(d, start, length) for x, d in arguments.mapped()
            ]
            parts.append(torch.vmap(row, (0, *arguments.dims))(keys[start : start + size], *chunk))
        joined = [
            torch.cat(pieces) if len(parts) > 1 else pieces[0]
            for pieces in zip(*(p[0] for p in parts), strict=True)
        ]
        placed = [x.movedim(0, d) for x, d in zip(joined, output[0].dims, strict=True)]
        return output[0].rebuilt(placed, [_same_for_all(x) for x in parts[-1][1]])

    def _own_gates(self, log_alpha: Tensor) -> Tensor:
        assert self.gate_dims is not None
        return log_alpha.squeeze(self.gate_dims)

    def __repr__(self) -> str:
        return f"PerExample({self.apply!r}, in_dims={self.in_dims}, out_dims={self.out_dims})"


def per_example(
    apply: Callable[..., Any],
    in_dims: Axis = 0,
    out_dims: Axis = 0,
    chunk_size: int | None = None,
    gate_dims: int | None = None,
) -> PerExample:
    """Give every row of a batch its own masks.

    Each row is presented to the module as a batch of one, under the masks of its own key.
    BatchNorm in training mode normalises by the whole batch; dropout draws from the row's key.

    Args:
        apply: ``apply(params, gates, buffers, key, *inputs, **kwargs)``, from :func:`gated`.
        in_dims: Where the rows of an input are: a dimension for all, or a tuple with an entry for
            each input, which may be a pytree; None shares the input.
        out_dims: Where the rows of an output are: a dimension, or a pytree of them in the
            structure of the output; None for what is the same for all rows.
        chunk_size: Rows to compute at once; None is all. Memory falls with it, and the draws stay
            the same.
        gate_dims: Where the rows of every gate vector are, if each example has its own gates, such
            as those that a network computes from it; None shares them.

    Returns:
        ``rows(params, gates, buffers, keys, *inputs, **kwargs)`` with ``keys`` of shape ``(B,
        2)``; ``rows.with_buffers`` also returns the new buffers.

    Raises:
        ValueError: ``chunk_size`` is not positive.
    """
    if chunk_size is not None and operator.index(chunk_size) < 1:
        raise ValueError(
            f"chunk_size is a number of rows, at least 1; got {chunk_size}. None computes all at "
            f"once."
        )
    return PerExample(apply, in_dims, out_dims, chunk_size, gate_dims)


def _count_rows(keys: Tensor, arguments: FlatMapped) -> int:
    random.check_key(keys)
    if keys.dim() != 2:
        raise ValueError(
            f"per_example needs a key for every row, shape (B, 2); got {tuple(keys.shape)}. "
            "Make them with l0func.random.split(key, B)."
        )
    rows = keys.shape[0]
    if rows == 0:
        raise ValueError("per_example needs at least one row; got no keys.")
    sizes = {x.shape[d] for x, d in arguments.mapped()}
    if len(sizes) > 1:
        shapes = [f"{tuple(x.shape)} along {d}" for x, d in arguments.mapped()]
        raise ValueError(
            f"All inputs have the same number of rows; got {', '.join(shapes)}. See in_dims; None "
            f"shares one."
        )
    if sizes - {rows}:
        raise ValueError(
            f"The number of keys is the number of rows; got {rows} keys for {sizes.pop()} rows. "
            "Make them with l0func.random.split(key, B)."
        )
    return rows


def _same_for_all(x: Tensor) -> Tensor:
    # vmap's out_dims=None takes any tensor that an outer vmap maps for one that differs between
    # these rows. What does not differ comes out of it expanded.
    if x.shape[0] > 1 and x.stride(0) != 0:
        raise ValueError(
            f"What has no rows is the same for all of them; an output or buffer of shape "
            f"{tuple(x.shape[1:])} differs from row "
            "to row. Give it a dimension of rows in out_dims; a module that writes inputs into a "
            "buffer belongs in eval mode."
        )
    return x[0]


def _only_row(x: Tensor, dim: int) -> Tensor:
    if x.shape[dim] != 1:
        raise ValueError(
            f"A row's output has one row along its out_dims; got size {x.shape[dim]} along "
            f"dimension {dim} of "
            f"{tuple(x.shape)}. Say in out_dims where the rows of each output are, None for an "
            f"output that has none."
        )
    return x.select(dim, 0)
