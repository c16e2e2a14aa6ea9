"""One step in a trace: a transfer function reads and writes through it.

In dataflow analysis a transfer function maps an operation's abstract inputs to its abstract
outputs. Here it has the type :data:`Transfer`: it takes a :class:`Step` and a
:class:`~l0func.tracing.call.Call`, and gives every output of the call its abstract value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from l0func.tracing.call import Call
from l0func.tracing.checks import RunsInsideUnits
from l0func.tracing.trace import Reader, Trace
from l0func.tracing.units import INPUT, Units, no_units, varies, without_repeats
from l0func.tracing.values import AbstractValue, AbstractValues, Weight, dimension_of


@dataclass(frozen=True)
class Step:
    """One step in a trace.

    A transfer function writes through its step and not into the trace, so that every request to
    keep units carries the step's number. A request counts only if an output depends on the step.

    Attributes:
        number: The operation's place in the forward pass, from 0; None before and after it, when
            requests always count.
        trace: The record to write.
        values: The abstract values of all tensors.
    """

    number: int | None
    trace: Trace
    values: AbstractValues

    @property
    def units(self) -> Units:
        """The trace's units."""
        return self.trace.units

    def value_of(self, tensor: Tensor) -> AbstractValue | None:
        """A tensor's abstract value; None if it is unknown."""
        return self.values.get(tensor)

    def weight(self, tensor: Tensor | None) -> Weight | None:
        """A tensor's abstract value if that is a weight, else None."""
        value = None if tensor is None else self.values.get(tensor)
        return value if isinstance(value, Weight) else None

    def labels(self, tensor: Tensor) -> Tensor:
        """A label for every element; a weight gets a label for each of its entries."""
        value = self.values.get(tensor)
        if value is None:
            return no_units((1,) * tensor.dim()).expand(tensor.shape)
        return self.trace.elements(value) if isinstance(value, Weight) else value

    def set(self, tensor: Tensor, value: AbstractValue) -> None:
        """Give a tensor its abstract value."""
        self.values.set(tensor, value)

    def set_all(self, tensors: Iterable[Tensor], labels: Tensor) -> None:
        """Give several tensors the same labels, expanded to each one's shape."""
        for tensor in tensors:
            self.values.set(tensor, labels.expand(tensor.shape))

    def fix(self, labels: Tensor, reason: str) -> None:
        """Ask to keep these units, if an output depends on this step."""
        self.units.fix(labels, reason, self.number)

    def check_runs_inside_units(self, labels: Tensor, dims: Sequence[int], reason: str) -> None:
        """Ask to keep these units if several of them lie along dimensions that are run over."""
        if any(varies(labels, d) for d in dims):
            check = RunsInsideUnits(labels, dims, reason, self.number)
            self.trace.check_at_end(check)

    def fixed(self, reason: str, shape: Sequence[int]) -> Tensor:
        """Labels in the given shape, all for one new unit that cannot be removed."""
        label = self.units.fixed(reason)
        return label.reshape((1,) * len(shape)).expand(shape)

    def note_repeats(self, tensor: Tensor, labels: Tensor, sizes: Sequence[int]) -> None:
        """Note dimensions along which a tensor only repeats inputs, such as a mask for all heads.

        Args:
            tensor: The tensor.
            labels: The labels of what it repeats.
            sizes: The inputs' sizes, for each dimension of the tensor.
        """
        repeated = [d for d, size in enumerate(sizes) if size == 1]
        of_inputs = without_repeats(labels) == INPUT
        if repeated and labels.numel() and bool(of_inputs.all()):
            self.values.set_repeats(tensor, repeated)

    def own(self, weight: Weight, dim: int, labels: Tensor) -> None:
        """Record that a weight's slices along one dimension make these units."""
        self.trace.own(weight, dim, labels, self.number)

    def read(self, weight: Weight, dim: int, labels: Tensor) -> None:
        """Record that a weight's slices along one dimension multiply these units' outputs."""
        self.trace.read(weight, dim, labels, self.number)

    def tie_vectors(self, tensors: Iterable[Tensor], labels: Tensor, dim: int) -> None:
        """Tie vectors with ``labels`` along a dimension; other tensors must broadcast."""
        shape = [1] * labels.dim()
        shape[dim] = -1
        for tensor in tensors:
            others = self.labels(tensor)
            if tensor.dim() == 1:
                others = others.reshape(shape)
            self.units.tie(others, labels)

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
