"""Norms that forward writes out by hand: a statistic over units scales these units.

``x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight`` is an RMSNorm. A unit that
outputs exact zeros adds nothing to the sum of squares, so it can be removed, if the scale and eps
make up for the smaller count. :class:`WrittenNorm` records what that takes. The tracer calls
:mod:`l0func.tracing.norm_states` after every step, and that follows the statistic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from l0func.tracing.units import Units, runs_over_units, varies, without_repeats


class Powers(NamedTuple):
    """The power of the count N that a number grows with, while the sum over units stays.

    Attributes:
        sure: The power by reductions alone: a mean has -1, a sum or a norm has 0.
        likely: The power if the numbers that equal N, 1 / N or a root of them are read from the
            input's shape. A number in an attribute would stay.
    """

    sure: float
    likely: float

    def times(self, factor: float) -> Powers:
        """The powers after a root, a square or a reciprocal."""
        return Powers(self.sure * factor, self.likely * factor)

    def plus(self, other: Powers) -> Powers:
        """The powers of a product."""
        return Powers(self.sure + other.sure, self.likely + other.likely)


class Eps(NamedTuple):
    """A number that is added to a statistic, or bounds it, and the statistic's powers there.

    Attributes:
        value: The number; None if it is not known.
        powers: The statistic's powers.
    """

    value: float | None
    powers: Powers


@dataclass
class WrittenNorm:
    """A statistic over units, and how it scales them.

    Attributes:
        labels: The labels of its input.
        dims: The dimensions that it runs over.
        reason: Why the units stay if the statistic has any other use than to scale.
        step: The step that computes it.
        powers: The powers of the scaled output.
        eps: The numbers that are added to it.
        weights: The parameters that scale the output: for each path the number that is added to
            the parameter before, such as 1 in Gemma. None if it is used in another way.
        eps_paths: For each such number the attributes that hold it, as far as they are known.
        is_resized: Whether its module is one of torch's, which adapts by itself.
        is_applied: Whether it scales anything.
        is_stray: Whether it has another use.
    """

    labels: Tensor
    dims: Sequence[int]
    reason: str
    step: int | None
    powers: Powers
    eps: list[Eps] = field(default_factory=list[Eps])
    weights: dict[str, float | None] = field(default_factory=dict[str, "float | None"])
    eps_paths: dict[Eps, list[str]] = field(default_factory=dict[Eps, list[str]])
    is_resized: bool = False
    is_applied: bool = False
    is_stray: bool = False

    @property
    def count(self) -> int:
        """How many elements the statistic runs over."""
        count = 1
        for dim in self.dims:
            count *= self.labels.shape[dim]
        return count

    def is_over_units(self, units: Units) -> bool:
        """Whether it runs over several units, at the end of a trace."""
        return runs_over_units(units, self.labels, self.dims)

    def keeps_units(self, units: Units) -> bool:
        """Whether its units must stay: it mixes them, or all of them are one."""
        if self.is_over_units(units):
            return self.is_stray
        roots = units.roots(without_repeats(self.labels))
        return not any(varies(roots, d) for d in range(roots.dim()))
