"""The abstract class for gates that a formula computes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from l0func.distributions.base import GateDistribution
from l0func.distributions.by_formula import (
    constants_of,
    draw_derivatives,
    draw_slopes,
    moment_slopes,
    nodes_of,
    stream_slopes,
    tail_slopes,
)
from l0func.distributions.quadrature import Quadrature
from l0func.distributions.smooth import smooth
from l0func.internal.context import compiling
from l0func.kernels import by_torch
from l0func.kernels.by_torch import Node
from l0func.kernels.formula import Formula


class FormulaGate(GateDistribution):
    """A gate distribution whose draw, tails and first slopes are one formula.

    The hooks for torch come from the formula, and every kernel compiles it.
    """

    derived_names: ClassVar[tuple[str, ...]] = (
        *GateDistribution.derived_names,
        "written",
        "limits",
        "known",
        "nodes",
    )

    written: Formula
    """The formula. :attr:`formula` is None in a subclass, because that may replace the hooks."""

    limits: tuple[float, ...]
    """``formula.node`` at the gate values 0 and 1."""

    nodes: tuple[list[Node], list[Node]]
    """The nodes of the moments, for float64 and for float32."""

    known: dict[float, float]
    """``formula.node`` at the nodes of the moments."""

    def _compute(self) -> None:
        object.__setattr__(self, "written", self._formula())
        if "_formula" in vars(type(self)):
            object.__setattr__(self, "formula", self.written)
        object.__setattr__(self, "limits", constants_of(self.written, (0.0, 1.0)))
        object.__setattr__(self, "known", {})
        super()._compute()
        found = self.quadratures.double, self.quadratures.single
        nodes = tuple([nodes_of(self.written, quadrature) for quadrature in found])
        object.__setattr__(self, "nodes", nodes)
        # Kept for a subclass: inside a transform no tensor becomes a number.
        known = {node.t: node.constant for node in (*nodes[0], *nodes[1])}
        object.__setattr__(self, "known", known)

    @abstractmethod
    def _formula(self) -> Formula:
        """The formula for the distribution's settings."""

    def derivatives(self, u: Tensor, log_alpha: Tensor, orders: Sequence[int]) -> list[Tensor]:
        """See :meth:`GateDistribution.derivatives`."""
        if self.formula is None:
            return super().derivatives(u, log_alpha, orders)
        return draw_derivatives(self.formula, u, log_alpha, orders)

    def _quantile(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        return by_torch.recorded_quantile(self.written, u, log_alpha)[0]

    def _survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return self._tails(t, log_alpha)[0]

    def _cumulative(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return self._tails(t, log_alpha)[1]

    def _tails(self, t: float | Tensor, log_alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        prepare, settings = self.written.prepare, self.written.settings
        constant = self._constant(t)
        return self.written.tails(constant, *prepare(log_alpha, *settings), *settings)

    def _constant(self, t: float | Tensor) -> float | Tensor:
        if isinstance(t, Tensor):
            return self.written.node(t, *self.written.settings)
        if t in (0.0, 1.0):
            return self.limits[int(t)]
        return self.known[t] if t in self.known else constants_of(self.written, (t,))[0]

    def _draw_slopes(
        self, order: int, log_alpha: Tensor, u: Tensor, recorded: bool = False
    ) -> tuple[Tensor, ...]:
        if self.formula is None or order > 0 or recorded:
            return super()._draw_slopes(order, log_alpha, u)
        return draw_slopes(self.formula, log_alpha, u)

    def _stream_slopes(
        self, first: int, rank: int, order: int, log_alpha: Tensor, seed: Tensor, offset: Tensor
    ) -> tuple[Tensor, ...]:
        if self.formula is None or order > 0:
            return super()._stream_slopes(first, rank, order, log_alpha, seed, offset)
        return stream_slopes(self.formula, first, rank, log_alpha, seed, offset)

    def _moment_slopes(self, order: int, log_alpha: Tensor) -> tuple[Tensor, ...]:
        if self.formula is None:
            return super()._moment_slopes(order, log_alpha)
        return moment_slopes(self.formula, self._nodes_for(log_alpha), order, log_alpha)

    def _mean_and_variance(self, la: Tensor) -> tuple[Tensor, Tensor]:
        if self.formula is None:
            return super()._mean_and_variance(la)
        moments = by_torch.moments(self.formula, self._nodes_for(la), la)
        return moments.mean, moments.variance

    def _integrated(self, la: Tensor, quadrature: Quadrature) -> tuple[Tensor, Tensor]:
        if self.formula is None:
            return super()._integrated(la, quadrature)
        moments = by_torch.moments(self.formula, nodes_of(self.formula, quadrature), la)
        return moments.mean, moments.variance

    def _nodes_for(self, la: Tensor) -> list[Node]:
        return self.nodes[0] if la.dtype == torch.float64 else self.nodes[1]

    def _tail(self, t: float, log_alpha: Tensor) -> Tensor:
        if self.formula is None or compiling():
            return super()._tail(t, log_alpha)
        slopes = partial(tail_slopes, self.formula, self.limits[int(t)])
        return smooth(slopes, 0, log_alpha)[0]
