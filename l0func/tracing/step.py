"""One step of a trace: the place where a transfer function reads and writes.

In dataflow analysis a transfer function maps the abstract values of an operation's inputs to those
of its outputs. Here it has the type :data:`Transfer`: it takes a :class:`Step` and a
:class:`~l0func.tracing.call.Call`, and it sets the abstract values of the call's outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from l0func.tracing.call import Call
from l0func.tracing.trace import Reader, Trace
from l0func.tracing.units import NONE, Units
from l0func.tracing.values import AbstractValue, AbstractValues, Weight, dimension_of


@dataclass(frozen=True)
class Step:
    """One step of a trace.

    A transfer function writes through its step and not into the trace, so that every request to
    keep units carries the step's number. A request counts only if an output depends on the step.

    Attributes:
        number: The position of the operation in the call; None outside all operations, where
            requests always count.
        trace: The record of the call.
        values: The abstract values of all tensors.
    """

    number: int | None
    trace: Trace
    values: AbstractValues

    @property
    def units(self) -> Units:
        """The units of the trace."""
        return self.trace.units

    def value_of(self, tensor: Tensor) -> AbstractValue | None:
        """The abstract value of a tensor; None if it is unknown."""
        return self.values.get(tensor)

    def weight(self, tensor: Tensor | None) -> Weight | None:
        """The abstract value of a tensor if it is a weight, else None."""
        value = None if tensor is None else self.values.get(tensor)
        return value if isinstance(value, Weight) else None

    def labels(self, tensor: Tensor) -> Tensor:
        """The label of every element; a weight gets one label for every entry."""
        value = self.values.get(tensor)
        if value is None:
            return torch.full((1,) * tensor.dim(), NONE).expand(tensor.shape)
        return self.trace.elements(value) if isinstance(value, Weight) else value

    def set(self, tensor: Tensor, value: AbstractValue) -> None:
        """Give a tensor its abstract value."""
        self.values.set(tensor, value)

    def set_all(self, tensors: Iterable[Tensor], labels: Tensor) -> None:
        """Give tensors one tensor of labels, expanded to the shape of each."""
        for tensor in tensors:
            self.values.set(tensor, labels.expand(tensor.shape))

    def fix(self, labels: Tensor, reason: str) -> None:
        """Ask to keep the units of these labels, if an output depends on this step."""
        self.units.fix(labels, reason, self.number)

    def fixed(self, reason: str, shape: Sequence[int]) -> Tensor:
        """Labels in a shape, all of one new unit that cannot be removed."""
        label = self.units.fixed(reason)
        return label.reshape((1,) * len(shape)).expand(shape)

    def own(self, weight: Weight, dim: int, labels: Tensor) -> None:
        """Record that the slices of a weight along a dimension make these units."""
        self.trace.own(weight, dim, labels, self.number)

    def read(self, weight: Weight, dim: int, labels: Tensor) -> None:
        """Record that the slices of a weight along a dimension multiply these units' outputs."""
        self.trace.read(weight, dim, labels, self.number)

    def tie_vectors(self, tensors: Iterable[Tensor], labels: Tensor, dim: int) -> None:
        """Tie each vector's labels with ``labels`` along a dimension, each other tensor's as is."""
        shape = [1] * labels.dim()
        shape[dim] = -1
        for tensor in tensors:
            others = self.labels(tensor)
            self.units.tie(others.reshape(shape) if tensor.dim() == 1 else others, labels)

    def log_reader(
        self,
        weight: Weight,
        dim: int,
        x: Tensor,
        values: Tensor,
        bias: Tensor | None,
        border: bool,
    ) -> None:
        """Record the activations that a weight reads along a dimension.

        Args:
            weight: The weight.
            dim: Its dimension that the product sums over.
            x: The tensor that the weight reads.
            values: The same numbers, shape (rows, columns).
            bias: The bias that is added to the product.
            border: Whether the product also reads zeros around ``x``.
        """
        found = dimension_of(weight, dim)
        if found is None:
            return
        dimension, positions = found
        of_bias = self.weight(bias)
        bias_path = None if of_bias is None else of_bias.path
        steady = self.values.is_steady(x)
        reader = Reader(weight.path, dimension, positions, values, bias_path, border, steady)
        self.trace.readers.append(reader)


Transfer = Callable[[Step, Call], None]
"""A transfer function."""
