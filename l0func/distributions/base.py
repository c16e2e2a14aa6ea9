"""The base class for all gate distributions: shared methods, and hooks for subclasses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from l0func import random
from l0func.distributions import moments
from l0func.distributions.derived import Derived
from l0func.distributions.elementwise import differentiated, in_float, widened
from l0func.distributions.identities import identify
from l0func.distributions.moments import Quadratures
from l0func.distributions.quadrature import Quadrature, gauss_legendre
from l0func.distributions.settings import given_fields
from l0func.distributions.sharded import sharded_draws, sharded_quantile
from l0func.distributions.smooth import smooth
from l0func.internal.below_vmap import below_vmap
from l0func.internal.context import compiling
from l0func.internal.shapes import joint_shape
from l0func.internal.sharding import is_dtensor
from l0func.internal.shards import on_shards
from l0func.kernels.formula import Formula

Estimator = Literal["louizos", "median", "mean"]
"""The name of a test-time gate that looks at one gate alone."""


class GateDistribution(Derived, ABC):
    """A distribution on [0, 1] with atoms at 0 and 1, one location ``log_alpha`` a gate.

    Your own distribution derives from :class:`l0func.CustomGate`. A subclass is a frozen dataclass
    with Python scalars. It writes down its quantile function, its survival and distribution
    functions, the test-time gate from its paper, and the location for a given probability. Larger
    ``log_alpha`` means stochastically larger gates. Everything is computed in float32, or in
    float64 for float64 locations, and returned in the locations' dtype and on their device.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> l0.HardConcrete().mean(torch.tensor([0.0]))  # every gate has these methods
        tensor([0.5000])
    """

    derived_names: ClassVar[tuple[str, ...]] = (
        "quadratures",
        "identity",
        "first_equal",
        "formula",
    )

    quadratures: Quadratures
    """Nodes and weights for the moments."""

    identity: str
    """A text that stands for the distribution in a compiled graph."""

    first_equal: GateDistribution | None
    """An equal distribution that is found by ``identity``; None where this one or its twin is."""

    formula: Formula | None = None
    """The formula for kernels; None where only torch computes the gates."""

    def _compute(self) -> None:
        """Set the attributes named in ``derived_names``."""
        found = moments.find_quadratures(str(self), self._location, self._nodes, self._integrated)
        object.__setattr__(self, "quadratures", found)
        identity, first = identify(self, self._fields())
        object.__setattr__(self, "identity", identity)
        object.__setattr__(self, "first_equal", None if first is self else first)

    # The hooks that a subclass writes. Locations arrive as float32 or float64.

    @abstractmethod
    def _quantile(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        """The gate at probability ``u``, with derivative 0 where it is exactly 0 or 1."""

    @abstractmethod
    def _survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        """P(z > t) for t in [0, 1), accurate where it is small; at t = 1 the limit, P(z = 1)."""

    @abstractmethod
    def _cumulative(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        """P(z <= t) for t in [0, 1), accurate where it is small."""

    @abstractmethod
    def _published(self, log_alpha: Tensor) -> Tensor:
        """The test-time gate from the distribution's own paper."""

    @abstractmethod
    def _location(self, probability: float, t: float) -> float:
        """The location that makes P(z <= t) equal to ``probability``, for t in [0, 1)."""

    # The hooks that a subclass may write, to be faster or more accurate. Functions for `smooth`
    # return values and then the values' slopes.

    def _nodes(self, size: int) -> Quadrature:
        """A quadrature with ``size`` nodes on [0, 1], denser where the survival function bends."""
        return gauss_legendre(size)

    def derivatives(self, u: Tensor, log_alpha: Tensor, orders: Sequence[int]) -> list[Tensor]:
        """Derivatives of the draw in its location; order 0 is the draw itself.

        Args:
            u: Probabilities in (0, 1), shape ``(*many, *gates)``.
            log_alpha: Gate locations, shape ``(*gates)``, in float32 or float64.
            orders: The orders to compute.

        Returns:
            For each order a tensor shaped like ``u``; from order 1 on it is 0 where the draw is
            exactly 0 or 1.
        """
        shape = joint_shape(u.shape, log_alpha.shape)
        spread = log_alpha.expand(shape)

        def draw(la: Tensor) -> Tensor:
            return self._quantile(u, la)

        return [differentiated(draw, order, spread) for order in orders]

    def _draw_slopes(
        self, order: int, log_alpha: Tensor, u: Tensor, recorded: bool = False
    ) -> tuple[Tensor, ...]:
        """For `smooth`: the draw's derivatives of orders ``order`` and ``order + 1``."""
        return tuple(self.derivatives(u, log_alpha, (order, order + 1)))

    def _stream_slopes(
        self, first: int, rank: int, order: int, log_alpha: Tensor, seed: Tensor, offset: Tensor
    ) -> tuple[Tensor, ...]:
        """For `smooth`: as ``_draw_slopes``, at the uniforms of keys.

        Args:
            first: The position of the first gate in every key's stream.
            rank: The number of gate dimensions.
            order: The order.
            log_alpha: Locations, ``(*batch, *gates)``.
            seed: The keys' seeds, ``(*batch, 1, ..., 1)``; the batches broadcast.
            offset: Their offsets, likewise.
        """
        batch, gates = seed.dim() - rank, log_alpha.dim() - rank
        keys = torch.stack((seed, offset), dim=-1).reshape(*seed.shape[:batch], 2)
        u = random.uniform_from(keys, first, log_alpha.shape[gates:])
        return self._draw_slopes(order, log_alpha, u.to(log_alpha.dtype))

    def _moment_slopes(self, order: int, log_alpha: Tensor) -> tuple[Tensor, ...]:
        """For `smooth`: derivatives of mean and variance; both for ``order``, then both slopes."""
        values = differentiated(self._mean_and_variance, order, log_alpha)
        slopes = differentiated(self._mean_and_variance, order + 1, log_alpha)
        return *values, *slopes

    def _mean_and_variance(self, la: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance, in operations that torch can differentiate."""
        return self._integrated(la, self.quadratures.of(la.dtype))

    def _integrated(self, la: Tensor, quadrature: Quadrature) -> tuple[Tensor, Tensor]:
        """Mean and variance, integrated by a given quadrature."""
        return moments.mean_and_variance(
            quadrature,
            lambda t: self._survival(t, la),
            lambda t: self._cumulative(t, la),
        )

    def _tail(self, t: float, log_alpha: Tensor) -> Tensor:
        """P(z > t) for t = 0 and, as a limit, P(z = 1) for t = 1."""
        return self._survival(t, log_alpha)

    # The public methods.

    def sample(self, key: Tensor, log_alpha: Tensor, /) -> Tensor:
        """One draw for each gate, ``quantile(uniform(key), log_alpha)``.

        Args:
            key: A key, shape ``(2,)``.
            log_alpha: Gate locations, shape ``(*gates)``.

        Returns:
            Gates in [0, 1], shape ``(*gates)``.
        """
        return self.draws(key, log_alpha)

    def draws(self, keys: Tensor, log_alpha: Tensor, first: int = 0, /) -> Tensor:
        """One draw for each gate from each key.

        Args:
            keys: Keys, shape ``(*batch, 2)``.
            log_alpha: Gate locations, shape ``(*gates)``.
            first: The position of the first gate in every key's stream.

        Returns:
            Gates in [0, 1], shape ``(*batch, *gates)``.
        """
        random.check_key(keys)
        if is_dtensor(log_alpha):
            return sharded_draws(self, keys, log_alpha, first)
        rank = log_alpha.dim()

        def draw(la: Tensor) -> Tensor:
            if compiling():
                # A compiler fuses uniforms and recorded operations, slopes included.
                u = random.uniform_from(keys, first, la.shape)
                return self._quantile(u.to(la.dtype), la)
            # All with one rank, so that they broadcast with further batches in front.
            lone = keys.reshape(*keys.shape[:-1], *(1,) * rank, 2)
            locations = la.reshape((1,) * (keys.dim() - 1) + la.shape)
            streams = partial(smooth, partial(self._stream_slopes, first, rank), 0)
            return below_vmap(streams, locations, lone[..., 0], lone[..., 1])[0]

        return in_float(log_alpha, draw)

    def quantile(self, u: Tensor, log_alpha: Tensor, /) -> Tensor:
        """The reparameterised draw: a gate is below this value with probability ``u``.

        Args:
            u: Probabilities in (0, 1), a shape that broadcasts with the gates.
            log_alpha: Gate locations, shape ``(*gates)``.

        Returns:
            Gates in [0, 1]; their derivative with respect to ``log_alpha`` is 0 where they are
            exactly 0 or 1. (A ``BernoulliGate`` has the derivative of its expectation instead.)
        """
        if is_dtensor(log_alpha):
            return sharded_quantile(self, u, log_alpha)

        def draw(la: Tensor) -> Tensor:
            wide_u = u.to(la.dtype)
            if compiling():
                # A compiler fuses the recorded operations, slopes included.
                return self._quantile(wide_u, la)
            return smooth(self._draw_slopes, 0, la, wide_u)[0]

        return in_float(log_alpha, draw)

    def cdf(self, x: float | Tensor, log_alpha: Tensor, /) -> Tensor:
        r"""The probability that a gate is at most ``x``, :math:`P(z \le x)`.

        Args:
            x: Gate values; any real number, or a tensor that broadcasts with the gates.
            log_alpha: Gate locations, shape ``(*gates)``.

        Returns:
            Probabilities in [0, 1]: 0 below 0, 1 from 1 on.
        """

        def evaluate(la: Tensor) -> Tensor:
            at = torch.as_tensor(x, dtype=la.dtype, device=la.device)
            within = (at >= 0) & (at < 1)
            probability = self._cumulative(torch.where(within, at, 0.5), la)
            from_zero = torch.where(at >= 1, 1.0, probability)
            return torch.where(at < 0, 0.0, from_zero)

        return in_float(log_alpha, evaluate)

    def prob_nonzero(self, log_alpha: Tensor, /) -> Tensor:
        r"""Probability that each gate is open, :math:`P(z \ne 0)`.

        Args:
            log_alpha: Gate locations, shape ``(*gates)``.

        Returns:
            Probabilities in [0, 1], shape ``(*gates)``.
        """
        return in_float(log_alpha, lambda la: self._tail(0.0, la))

    def prob_one(self, log_alpha: Tensor, /) -> Tensor:
        """Probability that each gate is exactly one, :math:`P(z = 1)`.

        Args:
            log_alpha: Gate locations, shape ``(*gates)``.

        Returns:
            Probabilities in [0, 1], shape ``(*gates)``.
        """
        return in_float(log_alpha, lambda la: self._tail(1.0, la))

    def mean(self, log_alpha: Tensor, /) -> Tensor:
        r"""The exact expectation of each gate.

        .. math:: E[z] = \int_0^1 P(z > t)\, dt

        by Gauss-Legendre quadrature, with as many nodes as this distribution needs for 1e-11 in
        float64 and 1e-7 in float32.

        Args:
            log_alpha: Gate locations, shape ``(*gates)``.

        Returns:
            Expectations in [0, 1], shape ``(*gates)``.
        """
        return self.mean_and_variance(log_alpha)[0]

    def second_moment(self, log_alpha: Tensor, /) -> Tensor:
        r"""The exact second moment of each gate.

        .. math:: E[z^2] = \int_0^1 2t\, P(z > t)\, dt

        Args:
            log_alpha: Gate locations, shape ``(*gates)``.

        Returns:
            Expectations in [0, 1], shape ``(*gates)``.
        """

        def evaluate(la: Tensor) -> Tensor:
            mean, variance = self.mean_and_variance(la)
            return (variance + mean * mean).clamp(max=1.0)

        return in_float(log_alpha, evaluate)

    def variance(self, log_alpha: Tensor, /) -> Tensor:
        r"""The exact variance of each gate, without cancellation.

        .. math:: \mathrm{Var}[z] = E[z^2] - E[z]^2 = E[(1-z)^2] - E[1-z]^2

        The first difference serves means below one half, the second all others.

        Args:
            log_alpha: Gate locations, shape ``(*gates)``.

        Returns:
            Variances in [0, 1/4], shape ``(*gates)``.
        """
        return self.mean_and_variance(log_alpha)[1]

    def mean_and_variance(self, log_alpha: Tensor, /) -> tuple[Tensor, Tensor]:
        """:meth:`mean` and :meth:`variance` in one pass.

        Args:
            log_alpha: Gate locations, shape ``(*gates)``.

        Returns:
            Means in [0, 1] and variances in [0, 1/4], each of shape ``(*gates)``.
        """
        if is_dtensor(log_alpha):
            return on_shards(self.mean_and_variance, log_alpha)
        wide = widened(log_alpha)
        if compiling():
            # A compiler fuses the recorded operations, slopes included.
            mean, variance = self._mean_and_variance(wide)
        else:
            mean, variance = smooth(self._moment_slopes, 0, wide)[:2]
        return mean.to(log_alpha.dtype), variance.to(log_alpha.dtype)

    def deterministic(self, log_alpha: Tensor, estimator: Estimator = "louizos", /) -> Tensor:
        """One fixed gate value, for test time.

        Args:
            log_alpha: Gate locations, shape ``(*gates)``.
            estimator: ``"louizos"``, the gate from the distribution's paper; ``"median"``, the
                draw at u = 1/2; ``"mean"``, the exact expectation, never closed.
                (``"count"`` ranks the gates in a vector and lives in ``deterministic_masks``.)

        Returns:
            Gates in [0, 1], shape ``(*gates)``.

        Raises:
            ValueError: The estimator is not one of these.
        """
        if estimator == "louizos":
            return in_float(log_alpha, self._published)
        if estimator == "median":
            half = torch.full((), 0.5, device=log_alpha.device)
            return self.quantile(half, log_alpha)
        if estimator == "mean":
            return self.mean(log_alpha)
        raise ValueError(
            f"A gate's estimator is 'louizos', 'median' or 'mean'; got {estimator!r}."
        )

    def init(self, droprate: float, /, at: float = 0.0) -> float:
        r"""The location that closes a gate with probability ``droprate``.

        Args:
            droprate: :math:`P(z = 0)`, in (0, 1).
            at: Another threshold in [0, 1), so that ``droprate`` is :math:`P(z \le at)`. The
                usual recipe ``logit(1 - droprate)`` for the hard concrete gate is ``at=0.5``.

        Returns:
            ``log_alpha``.

        Raises:
            ValueError: ``droprate`` is outside (0, 1), or ``at`` is outside [0, 1).
        """
        if not 0.0 < droprate < 1.0:
            raise ValueError(
                "droprate is the probability that a gate starts closed, strictly between 0 and 1; "
                f"got {droprate}. For gates that stay open exclude the parameter (rule None)."
            )
        if not 0.0 <= at < 1.0:
            raise ValueError(f"The threshold ``at`` is a gate value in [0, 1); got at={at}.")
        return self._location(droprate, at)

    def to_dict(self) -> dict[str, Any]:
        """The distribution as JSON values, for :func:`l0func.distributions.from_dict`."""
        given = given_fields(type(self)) or self._fields()
        return {"kind": type(self).__name__, **{name: getattr(self, name) for name in given}}
