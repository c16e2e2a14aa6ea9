"""A base class for a user's own gate distribution: two methods, and defaults for the rest."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Any

import torch
from torch import Tensor

from l0func.distributions.base import GateDistribution
from l0func.distributions.blocks import by_blocks
from l0func.distributions.custom_checks import SEARCH_BOUND, check_methods
from l0func.distributions.elementwise import rectify


class CustomGate(GateDistribution):
    r"""A gate distribution of your own, from its draw and its survival function.

    A subclass is a frozen dataclass; its settings are Python numbers. It defines :meth:`draw` and
    :meth:`survival`, and may define :meth:`cumulative`, :meth:`fixed` and :meth:`location`. All
    of them compute in the dtype and on the device of ``log_alpha``, with functions that torch can
    differentiate, entry by entry. A larger ``log_alpha`` gives a larger gate, a small one closes
    it, and the survival function has no kinks in (0, 1). Building one checks all this, and that
    draws and survival function agree, at t = 0 and t = 1 too.

    Raises:
        ValueError: The methods disagree, or compute in another precision or shape; gates fall
            where ``log_alpha`` rises, or never close; or quadratures cannot integrate the
            survival function.

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
        # Constants in the methods lie beside the CPU's locations, whatever the default device is.
        with torch.device("cpu"):
            check_methods(self)
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
        low, high = -SEARCH_BOUND, SEARCH_BOUND
        for _ in range(80):
            middle = (low + high) / 2.0
            at = torch.tensor(middle, dtype=torch.float64, device="cpu")
            if self.cumulative(t, at).item() > probability:
                low = middle
            else:
                high = middle
        return (low + high) / 2.0

    def init(self, droprate: float, /, at: float = 0.0) -> float:
        """The location that closes a gate with probability ``droprate``, checked.

        Args:
            droprate: P(z = 0), in (0, 1).
            at: Another threshold in [0, 1), so that ``droprate`` is P(z <= at).

        Raises:
            ValueError: ``droprate`` is outside (0, 1), or ``at`` is outside [0, 1); or
                :meth:`location` gives a location with another probability.
        """
        found = super().init(droprate, at)
        reached = self.cumulative(at, torch.tensor(found, dtype=torch.float64, device="cpu"))
        if abs(reached.item() - droprate) <= 0.01 * min(droprate, 1.0 - droprate):
            return found
        if type(self).location is not CustomGate.location:
            advice = "Mend its method location(probability, t), which gave this one."
        else:
            advice = (
                f"Give a droprate that it has at a log_alpha between -{SEARCH_BOUND:g} and "
                f"{SEARCH_BOUND:g}, or define location(probability, t)."
            )
        raise ValueError(
            f"{self} has no location with P(z <= {at:g}) = {droprate:g}: the one found, "
            f"log_alpha={found:.4g}, has {reached.item():.4g}. {advice}"
        )

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
