"""A gate distribution's formulas, written once for every backend.

Distributions make them; the kernels run them on tensors, in numba and in Triton.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from l0func.kernels.vocabulary import where

Scalars = Callable[..., Any]
"""A function over numbers, in the vocabulary of :mod:`~l0func.kernels.vocabulary`.

It is straight-line code without keyword arguments. Its literals are floats. A number stands for
one gate; on tensors the same code computes all gates.
"""


@dataclass(frozen=True)
class Formula:
    """What a kernel needs to know about a gate distribution.

    Args:
        prepare: ``(log_alpha, *settings)`` to two numbers p and q: computed once for each gate,
            whatever the number of draws and nodes.
        draw: ``(u, p, q, *settings)`` to the gate at probability u, and its slope in log_alpha.
        node: ``(t, *settings)`` to a number c that stands for the gate value t in ``tails``.
        tails: ``(c, p, q, *settings)`` to P(z > t), P(z <= t), and the slope of P(z > t) in
            log_alpha.
        settings: The distribution's own numbers.
    """

    prepare: Scalars
    draw: Scalars
    node: Scalars
    tails: Scalars
    settings: tuple[float, ...]

    @property
    def functions(self) -> dict[str, Scalars]:
        """The functions that kernels call, by name."""
        return {"prepare": self.prepare, "draw": self.draw, "tails": self.tails}

    @property
    def tag(self) -> str:
        """A name for these functions: equal for all settings."""
        module = self.draw.__module__.rpartition(".")[2]
        return f"{module}_{self.draw.__name__}"


def clipped(y: Any) -> Any:
    """``y`` clipped to [0, 1]; a NaN stays one."""
    return where(y <= 0.0, 0.0, where(y >= 1.0, 1.0, y))


def inside(y: Any, slope: Any) -> Any:
    """The slope of the clipped y: 0 where y is clipped, and at both ends."""
    return where(y <= 0.0, 0.0, where(y >= 1.0, 0.0, slope))
