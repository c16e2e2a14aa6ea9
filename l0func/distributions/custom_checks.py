"""Checks of a user's distribution, once when it is built.

The other functions of the library trust it: the price reads P(z > 0), a start finds its location
by bisection, and a forward pass takes the draws. Each of them alone would be wrong in silence.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from l0func.distributions.elementwise import rectify
from l0func.internal.untyped import listed_floats

SEARCH_BOUND = 60.0
"""Locations are sought up to here, on both sides of 0."""

_THRESHOLDS = (0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
"""The first is the one that the price reads."""

_SLACK = 0.01
"""Draws are compared at probabilities that lie so far from P(z <= t)."""

_ROUNDING = 1e-6


class TwoMethods(Protocol):
    """The methods that a user writes, or may write."""

    def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        """The gate at probability u."""
        ...

    def survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        """P(z > t)."""
        ...

    def cumulative(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        """P(z <= t)."""
        ...

    def fixed(self, log_alpha: Tensor) -> Tensor:
        """The gate at test time."""
        ...


def check_methods(gate: TwoMethods) -> None:
    """Refuse methods that contradict each other, or that no L0 penalty could use.

    Raises:
        ValueError: A method returns another dtype or shape, or no probability; draws do not have
            the survival function; a gate falls where its location rises; or no gate ever closes.
    """
    _check_precision(gate)
    log_alpha = torch.linspace(-4.0, 4.0, 9, dtype=torch.float64, device="cpu")
    for t in _THRESHOLDS:
        at_most = gate.cumulative(t, log_alpha)
        _check_finite(gate, t, log_alpha, at_most)
        _check_draws(gate, t, log_alpha, at_most)
        _check_complement(gate, t, log_alpha, at_most)
        _check_rises(gate, t, log_alpha, at_most)
    _check_limit(gate, log_alpha)
    _check_closes(gate, log_alpha)


def _check_precision(gate: TwoMethods) -> None:
    """Refuse methods that answer float64 locations in another dtype or shape."""
    log_alpha = torch.tensor([-2.0, 0.0, 2.0], dtype=torch.float64, device="cpu")
    results: dict[str, Any] = {
        "draw": gate.draw(torch.full_like(log_alpha, 0.3), log_alpha),
        "survival": gate.survival(0.5, log_alpha),
        "cumulative": gate.cumulative(0.5, log_alpha),
        "fixed": gate.fixed(log_alpha),
    }
    for name, result in results.items():
        got = result.dtype if isinstance(result, Tensor) else type(result).__name__
        if got != torch.float64:
            raise ValueError(
                f"{type(gate).__name__}.{name} computes in the precision of its locations: it got "
                f"float64 and returned {got}. Make constants with dtype=log_alpha.dtype, or use "
                "Python numbers, and cast nothing."
            )
        if result.shape != log_alpha.shape:
            raise ValueError(
                f"{type(gate).__name__}.{name} gives a number for each gate, shape "
                f"{tuple(log_alpha.shape)}; it returned {tuple(result.shape)}."
            )


def _check_finite(gate: TwoMethods, t: float, log_alpha: Tensor, at_most: Tensor) -> None:
    """Refuse a probability that is no number, as where a logarithm reads 0."""
    wrong = ~((at_most >= -_ROUNDING) & (at_most <= 1.0 + _ROUNDING))
    if wrong.any():
        where, got = listed_floats(log_alpha[wrong]), listed_floats(at_most[wrong])
        raise ValueError(
            f"The survival function of {gate} gives probabilities in [0, 1] for every t from 0 "
            f"to 1; at log_alpha={where[0]} it gives P(z <= {t:g}) = {got[0]}."
        )


def _check_draws(gate: TwoMethods, t: float, log_alpha: Tensor, at_most: Tensor) -> None:
    """Refuse a draw that does not have the given survival function.

    The draw at a probability a little below P(z <= t) is at most t, and a little above it is
    larger than t.
    """
    below = rectify(gate.draw((at_most - _SLACK).clamp(1e-6, 1 - 1e-6), log_alpha))
    above = rectify(gate.draw((at_most + _SLACK).clamp(1e-6, 1 - 1e-6), log_alpha))
    too_high = (below > t) & (at_most > 2 * _SLACK)
    # Not `above < t`: a draw of 0 is a closed gate, and P(z > 0) does not count it.
    too_low = (above <= t) & (at_most < 1 - 2 * _SLACK)
    wrong = too_high if too_high.any() else too_low
    if wrong.any():
        where, larger = listed_floats(log_alpha[wrong]), listed_floats(1.0 - at_most[wrong])
        found = "more" if too_high.any() else "fewer"
        raise ValueError(
            f"The draws of {gate} do not have its survival function: at log_alpha={where[0]} it "
            f"says P(z > {t:g}) = {larger[0]:.4f}, and {found} draws are larger than {t:g}. "
            "draw(u, log_alpha) is the inverse of u = 1 - survival(t, log_alpha), growing in u."
        )


def _check_limit(gate: TwoMethods, log_alpha: Tensor) -> None:
    """Refuse a survival function that is at 1 not the limit from below, P(z = 1)."""
    near, nearer = gate.survival(1 - 1e-9, log_alpha), gate.survival(1 - 1e-12, log_alpha)
    at_one = gate.survival(1.0, log_alpha)
    # Where draws come ever nearer to 1 and never reach it, the two still differ.
    settled = (near - nearer).abs() < 1e-3
    wrong = settled & ~((at_one - nearer).abs() < 2 * _SLACK)
    if wrong.any():
        where, at = listed_floats(log_alpha[wrong]), listed_floats(at_one[wrong])
        limit = listed_floats(nearer[wrong])
        raise ValueError(
            f"{type(gate).__name__}.survival(1.0, log_alpha) is P(z = 1), its limit from below: "
            f"at log_alpha={where[0]} that is {limit[0]:.4f}, and it returned {at[0]:.4f}. Use "
            "one formula for all t in [0, 1]."
        )


def _check_complement(gate: TwoMethods, t: float, log_alpha: Tensor, at_most: Tensor) -> None:
    """Refuse a cumulative function that is not one minus the survival function."""
    larger = gate.survival(t, log_alpha)
    wrong = ~((at_most + larger - 1.0).abs() < _ROUNDING)
    if wrong.any():
        where = listed_floats(log_alpha[wrong])
        above, below = listed_floats(larger[wrong]), listed_floats(at_most[wrong])
        raise ValueError(
            f"{type(gate).__name__}.cumulative(t, log_alpha) is 1 - survival(t, log_alpha): at "
            f"t={t:g} and log_alpha={where[0]} they are {below[0]:.4f} and 1 - {above[0]:.4f}. "
            "Leave cumulative out, or mend the one that the draws do not have."
        )


def _check_rises(gate: TwoMethods, t: float, log_alpha: Tensor, at_most: Tensor) -> None:
    """Refuse a gate that becomes smaller where its location becomes larger."""
    falls = at_most[1:] > at_most[:-1] + _ROUNDING
    if falls.any():
        low, high = listed_floats(log_alpha[:-1][falls]), listed_floats(log_alpha[1:][falls])
        raise ValueError(
            f"A larger log_alpha gives a larger gate; in {gate} P(z > {t:g}) falls between "
            f"log_alpha={low[0]} and {high[0]}. If log_alpha stands for the odds of a closed "
            "gate, write -log_alpha in draw and survival."
        )


def _check_closes(gate: TwoMethods, log_alpha: Tensor) -> None:
    """Refuse a gate that is never exactly 0: no penalty on open gates could move it."""
    low = torch.tensor([-SEARCH_BOUND, -SEARCH_BOUND / 4], dtype=torch.float64, device="cpu")
    closed = gate.cumulative(0.0, torch.cat((low, log_alpha)))
    if not (closed > _ROUNDING).any():
        raise ValueError(
            f"{gate} never closes a gate: P(z = 0) is 0 at every log_alpha, so its L0 penalty "
            "would have no slope. Let draws fall below 0, where they are clipped, as by "
            "1.2 * value - 0.1, and let survival(t) be that of value at (t + 0.1) / 1.2."
        )
