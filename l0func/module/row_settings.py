"""The settings of rows of an ``L0Module``; a value is checked whenever it is set."""

from __future__ import annotations

from l0func.engine.arguments import check_axes
from l0func.engine.row import Axis
from l0func.module.placed_gates import PlacedGates
from l0func.module.settings import check_per_example


class RowSettings(PlacedGates):
    """A wrapper that may give every row masks of its own."""

    @property
    def per_example(self) -> bool:
        """Whether every example has its own masks in training."""
        return self._per_example

    @per_example.setter
    def per_example(self, value: bool) -> None:
        check_per_example(value)
        self._per_example = value

    @property
    def in_dims(self) -> Axis:
        """With ``per_example``, where the examples are in the inputs by position."""
        return self._in_dims

    @in_dims.setter
    def in_dims(self, value: Axis) -> None:
        check_axes("in_dims", value)
        self._in_dims = value

    @property
    def out_dims(self) -> Axis:
        """Likewise, where they are in the outputs."""
        return self._out_dims

    @out_dims.setter
    def out_dims(self, value: Axis) -> None:
        check_axes("out_dims", value)
        self._out_dims = value
