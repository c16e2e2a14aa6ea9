"""A base class for a user's own gate distribution: two methods, and defaults for the rest."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Any

import torch
from torch import Tensor

from l0func.distributions.base import GateDistribution
from l0func.distributions.blocks import by_blocks
from l0func.distributions.elementwise import rectify
from l0func.internal.untyped import listed_floats

_SEARCH_BOUND = 60.0


class CustomGate(GateDistribution):
    r"""A gate distribution of your own, from its draw and its survival function.

    A subclass is a frozen dataclass; its settings are Python numbers. It defines :meth:`draw` and
    :meth:`survival`, and may define :meth:`cumulative`, :meth:`fixed` and :meth:`location`. All
    of them compute in the dtype and on the device of ``log_alpha``, with functions that torch can
    differentiate, entry by entry. A larger ``log_alpha`` gives a larger gate. Building one checks
    that draws and survival function agree.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class LogisticGate(l0.CustomGate):
        ...     '''A clipped logistic variable.'''
        ...
        ...     scale: float = 0.3
        ...
        ...     def draw(self, u, log_alpha):
        ...         return 0.5 + log_alpha + self.scale * torch.logit(u)
        ...
        ...     def survival(self, t, log_alpha):
        ...         return torch.sigmoid((0.5 + log_alpha - t) / self.scale)
        >>> LogisticGate().prob_nonzero(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([0.1589, 0.8411, 0.9933])
    """

    def _compute(self) -> None:
        _check_precision(self)
        _check_agreement(self)
        super()._compute()

    @abstractmethod
    def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        """The gate below which a draw lies with probability ``u``; it is clipped to [0, 1].

        Args:
            u: Probabilities in (0, 1), broadcastable to the gates.
            log_alpha: Gate locations, shape ``(*gates)``.
        """

    @abstractmethod
    def survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        """P(z > t) for t in [0, 1); at t = 1 its limit, P(z = 1).

        Args:
            t: A gate value.
            log_alpha: Gate locations, shape ``(*gates)``.
        """

    def cumulative(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        """P(z <= t). By default one minus the survival function, which rounds where it is small.

        Args:
            t: A gate value.
            log_alpha: Gate locations, shape ``(*gates)``.
        """
        return 1.0 - self.survival(t, log_alpha)

    def fixed(self, log_alpha: Tensor) -> Tensor:
        """The gate at test time; by default the median draw."""
        return self.draw(torch.full_like(log_alpha, 0.5), log_alpha)

    def location(self, probability: float, t: float) -> float:
        """The location at which P(z <= t) is a probability; by default found by bisection."""
        low, high = -_SEARCH_BOUND, _SEARCH_BOUND
        for _ in range(80):
            middle = (low + high) / 2.0
            at = torch.tensor(middle, dtype=torch.float64, device="cpu")
            if self.cumulative(t, at).item() > probability:
                low = middle
            else:
                high = middle
        return (low + high) / 2.0

    # The names by which the library calls them.

    def _quantile(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        return rectify(by_blocks(self.draw, u, log_alpha))

    def _survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return _at_values(self.survival, t, log_alpha)

    def _cumulative(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return _at_values(self.cumulative, t, log_alpha)

    def _mean_and_variance(self, la: Tensor) -> tuple[Tensor, Tensor]:
        return by_blocks(super()._mean_and_variance, la)

    def _published(self, log_alpha: Tensor) -> Tensor:
        return rectify(by_blocks(self.fixed, log_alpha))

    def _location(self, probability: float, t: float) -> float:
        return self.location(probability, t)


def _at_values(function: Any, t: float | Tensor, log_alpha: Tensor) -> Tensor:
    if isinstance(t, Tensor):
        return by_blocks(function, t, log_alpha)
    return by_blocks(partial(function, t), log_alpha)


def _check_precision(gate: CustomGate) -> None:
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


def _check_agreement(gate: CustomGate) -> None:
    """Refuse a draw that does not have the given survival function.

    The draw at a probability a little below P(z <= t) is at most t, and a little above at least t.
    """
    log_alpha = torch.linspace(-4.0, 4.0, 9, dtype=torch.float64, device="cpu")
    for t in (0.1, 0.5, 0.9):
        at_most = gate.cumulative(t, log_alpha)
        below = rectify(gate.draw((at_most - 0.01).clamp(1e-6, 1 - 1e-6), log_alpha))
        above = rectify(gate.draw((at_most + 0.01).clamp(1e-6, 1 - 1e-6), log_alpha))
        too_high = (below > t) & (at_most > 0.02)
        too_low = (above < t) & (at_most < 0.98)
        wrong = too_high | too_low | ~at_most.isfinite()
        if wrong.any():
            where, probability = listed_floats(log_alpha[wrong]), listed_floats(at_most[wrong])
            raise ValueError(
                f"The draws of {gate} do not have its survival function: at log_alpha="
                f"{where[0]} it says P(z <= {t}) = {probability[0]:.4f}, and the draw there is "
                f"not {t}. draw(u, log_alpha) is the inverse of u = 1 - survival(t, log_alpha), "
                "growing in u."
            )
