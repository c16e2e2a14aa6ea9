"""The pruned network's output on examples, and whether another network has the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

from torch import Tensor

from l0func.compaction.examples import first_line, in_float64, same_output
from l0func.internal.outputs import copied
from l0func.pure.functional import Functional
from l0func.pure.inputs import Inputs


class Comparison:
    """Compares networks with one on the same inputs, up to rounding.

    Networks that differ in their own types are compared in float64 before they are told apart: a
    card rounds products to TensorFloat-32, and a deep network multiplies rounding errors.

    Args:
        whole: The network.
        inputs: The inputs.
    """

    def __init__(self, whole: Functional, inputs: Inputs) -> None:
        self.inputs = inputs
        self._whole, self._expected = whole, inputs.call(*whole)

    def check_smaller(
        self, small: Functional, explain: Callable[[Callable[[Inputs], bool]], str] | None = None
    ) -> None:
        """Refuse a smaller network if its output is another.

        Args:
            small: The network.
            explain: A function that may know why it fails. It may ask whether the smaller network
                has the right output on other inputs, and gives the message, or an empty text.

        Raises:
            ValueError: It fails, or its output differs.
        """
        try:
            is_same = self._is_same(small)
        except Exception as error:
            # A forward of unknown code may raise anything when its sizes change.
            reason = explain(partial(self._is_right_on, small)) if explain is not None else ""
            if reason:
                raise ValueError(reason) from None
            raise ValueError(
                f"The compacted network does not run on the examples: {first_line(error)}. Its "
                "groups leave something out, such as the other branch of a residual connection; "
                "l0func.unit_groups finds all that goes together."
            ) from None
        if not is_same:
            raise ValueError(
                "The compacted network's output on the examples is not the pruned one's: its "
                "groups remove units that something else still depends on. l0func.unit_groups "
                "finds all that goes together."
            )

    def check_owned(self, gated: Functional) -> None:
        """Refuse groups that own more than their gates close.

        Raises:
            ValueError: The output is another with the owned slices than without.
        """
        if not self._is_same(gated):
            raise ValueError(
                "The pruned network's output on the examples is not that of the network under the "
                "same gates: a group owns slices that still matter when its gates multiply by 0. "
                "List in its multiplies all slices that read its units; l0func.unit_groups finds "
                "them."
            )

    def _is_right_on(self, small: Functional, inputs: Inputs) -> bool:
        """Whether a network has this one's output, from other inputs."""
        return same_output(inputs.call(*small), self._expected)

    def _is_same(self, other: Functional) -> bool:
        if same_output(self.inputs.call(*other), self._expected):
            return True
        if self._wide is None:
            return False
        inputs, expected = self._wide
        return same_output(inputs.call(*_as_float64(other)), expected, tolerance=1e-7)

    @cached_property
    def _wide(self) -> tuple[Inputs, Any] | None:
        """The inputs and the output in float64; None if forward asks for its own types."""
        whole = _as_float64(self._whole)
        inputs = copied(in_float64, self.inputs).widened(*whole)
        try:
            return inputs, inputs.call(*whole)
        except Exception:
            # A forward of unknown code may raise anything when its types change.
            return None


def _as_float64(function: Functional) -> Functional:
    params, buffers = (_in_float64(tensors) for tensors in function[1:])
    return Functional(function.fn, params, buffers)


def _in_float64(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {path: in_float64(tensor) for path, tensor in tensors.items()}
