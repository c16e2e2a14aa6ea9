"""One row in a mapped batch: how it calls the gated function, and its output's form.

:mod:`l0func.engine.per_example` maps :class:`Row` over all rows with vmap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from l0func.internal import tree
from l0func.internal.context import compiling
from l0func.internal.mapped import FlatMapped, flatten_mapped
from l0func.internal.outputs import copied
from l0func.internal.tree import Pytree
from l0func.pure.by_row import ByRow

Axis: TypeAlias = Any
"""A dimension, None, or a pytree with these as leaves, as torch.vmap takes it."""


@dataclass(frozen=True)
class Form:
    """The structure of a row's output, without the tensors.

    Torch's pytrees do not know this class, so vmap takes it for a leaf and hands it through.
    Outputs that only optree can flatten, and constants in an output, pass vmap in this way alone.
    """

    template: Any
    dims: list[int]

    def rebuilt(self, rows: Iterable[Tensor], shared: Iterable[Tensor], batch: int) -> Any:
        """The output for all rows.

        Args:
            rows: The tensors with rows, their rows along dimension 0; several masks for each row
                are along dimension 1.
            shared: The tensors that are the same for all rows and masks.
            batch: The number of these dimensions: 1 for rows alone, 2 for rows and masks.
        """
        pairs = zip(rows, self.dims, strict=True)
        placed = [_with_batch_at(x, dim, batch) for x, dim in pairs]
        return FlatMapped(self.template, placed, self.dims, []).rebuilt(placed, shared)


def _with_batch_at(x: Tensor, dim: int, batch: int) -> Tensor:
    """The tensor with its first ``batch`` dimensions in place ``dim``."""
    return x.movedim(list(range(batch)), list(range(dim, dim + batch)))


RowResult: TypeAlias = tuple[list[Tensor], list[Tensor], Form]
"""A row's output: tensors with rows, tensors that all rows share, and the structure."""


@dataclass(frozen=True)
class Row:
    """A function from a row's key and tensors to the row's output, for vmap.

    Args:
        apply: The gated function.
        params: Parameters, shared by all rows.
        buffers: Buffers, shared by all rows.
        arguments: Inputs, keyword inputs and gates for all rows.
        out_dims: Where the rows are in the outputs, as :func:`per_example` takes it.
        gate_dims: The dimension where each gate vector has its rows; None if all rows share the
            gates.
        chunked: Whether vmap sees the rows a chunk at a time.
        several_masks: Whether another vmap gives each row several keys.
        note: A function that sees the result of every torch function, and the row's key; None for
            none.
    """

    apply: Callable[..., Any]
    params: Pytree
    buffers: Pytree
    arguments: FlatMapped
    out_dims: Axis
    gate_dims: int | None
    chunked: bool
    several_masks: bool = False
    note: Callable[[Any, Tensor], None] | None = None

    def run(self, key: Tensor, *tensors: Tensor) -> RowResult:
        """The row's output; the gated function sees the row as a batch of one."""
        placed = zip(tensors, self.arguments.dims, strict=True)
        batch_of_one = [x.unsqueeze(dim) for x, dim in placed]
        inputs, kwargs, gates = self.arguments.rebuilt(batch_of_one)
        if not compiling():
            # A module may write a row's tensors into an object, such as a cache.
            inputs, kwargs = copied(_itself, (inputs, kwargs))
        gates = self._own_gates(gates)
        with ByRow(key, self.chunked, self.several_masks, self.note) as by_row:
            output = self.apply(self.params, gates, self.buffers, key, *inputs, **kwargs)
        flat = flatten_mapped(output, self.out_dims, "out_dims", "output", key)
        if not compiling():
            for x, dim in flat.mapped():
                _check_no_last_state(x, dim, by_row.last_states)
        rows = [_only_row(x, dim) for x, dim in flat.mapped()]
        return rows, flat.unmapped, Form(flat.template, flat.dims)

    def _own_gates(self, gates: Pytree) -> Pytree:
        """The row's gates without the dimension for rows, because a gate vector has none."""
        dim = self.gate_dims
        if dim is None:
            return gates
        return tree.map_tensors(lambda log_alpha: log_alpha.squeeze(dim), gates)


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _check_no_last_state(x: Tensor, dim: int, last_states: Sequence[Tensor]) -> None:
    """Refuse a recurrent layer's last state with its rows along layers, though there is one."""
    if dim % x.dim() != 1 and any(x is state for state in last_states):
        raise ValueError(
            f"The last state of a recurrent layer is an output, {tuple(x.shape)} in one row: its "
            f"rows lie along dimension 1, and out_dims says {dim}. Give out_dims=(0, 1) for an "
            "output and its state, out_dims=(0, (1, 1)) for those of an LSTM, or return the "
            "output alone."
        )


def _only_row(x: Tensor, dim: int) -> Tensor:
    """An output for a batch of one, without its dimension of rows."""
    if x.shape[dim] != 1:
        raise ValueError(
            f"A row's output has one row along its out_dims; got size {x.shape[dim]} along "
            f"dimension {dim} of {tuple(x.shape)}. Say in out_dims where the rows of each output "
            "are, None for an output that is the same for all. Return a tensor without a "
            "dimension of rows, such as a weight, as weight[None]."
        )
    # Not select: its backward pass writes a zero tensor as large as the output.
    return x.squeeze(dim)
