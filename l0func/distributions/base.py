"""What every gate distribution provides, and what follows from its survival function alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from l0func import random
from l0func.distributions.quadrature import Quadrature, converged, gauss_legendre
from l0func.distributions.smooth import smooth
from l0func.internal.context import compiling
from l0func.internal.untyped import untyped

Estimator = Literal["louizos", "median", "mean"]

# Gates whose draws and sums stay in a cache: fresh memory beyond it costs more than what is
# computed in it.
GATES_IN_CACHE = 1 << 16


class RawMoments(NamedTuple):
    """Raw moments of a gate z and of its complement 1 - z."""

    mean: Tensor
    second: Tensor
    complement_mean: Tensor
    complement_second: Tensor


class GateDistribution(ABC):
    """A distribution on [0, 1] with atoms at 0 and 1, one location ``log_alpha`` a gate.

    A subclass is a frozen dataclass of Python scalars that writes down its quantile function, its
    survival function, the gate that its paper uses at test time, and the location of a given
    quantile. Larger ``log_alpha`` means stochastically larger gates. Everything is computed in
    float32, or in float64 for float64 locations, and returned in the locations' dtype and on their
    device.
    """

    quadrature: Quadrature
    """Nodes t in (0, 1) and weights that integrate the survival function to 1e-11 for every
    location.
    """

    short_quadrature: Quadrature
    """The same to 1e-7, which is what float32 can hold."""

    identity: str
    """Text that :func:`named` turns back into the distribution, in this process."""

    def __post_init__(self) -> None:
        if self not in _QUADRATURES:
            _QUADRATURES[self] = (
                self._converged_quadrature(1e-11),
                self._converged_quadrature(1e-7),
            )
        for name, rule in zip(("quadrature", "short_quadrature"), _QUADRATURES[self], strict=True):
            object.__setattr__(self, name, rule)
        object.__setattr__(self, "identity", f"{type(self).__module__}.{self!r}")
        _NAMED[self.identity] = self

    # What a subclass writes. Locations arrive as float32 or float64.

    @abstractmethod
    def _quantile(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        """The gate at probability ``u``, with derivative 0 where it is exactly 0 or 1."""

    @abstractmethod
    def _survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        """P(z > t) for t in [0, 1), accurate where it is small."""

    @abstractmethod
    def _cumulative(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        """P(z <= t) for t in [0, 1), accurate where it is small."""

    @abstractmethod
    def _published(self, log_alpha: Tensor) -> Tensor:
        """The test-time gate of the distribution's own paper."""

    @abstractmethod
    def _location(self, probability: float, t: float) -> float:
        """The location at which P(z <= t) is ``probability``, for t in [0, 1)."""

    def _nodes(self, size: int) -> Quadrature:
        """A rule of ``size`` nodes on [0, 1]; a subclass may place its nodes where its survival
        function bends.
        """
        return gauss_legendre(size)

    def prepared(self, log_alpha: Tensor) -> Tensor:
        """What :meth:`derivatives` needs of a location, computed once for many draws."""
        return log_alpha

    def derivatives(self, u: Tensor, prepared: Tensor, orders: Sequence[int]) -> list[Tensor]:
        """Derivatives of the draw in its location, given what :meth:`prepared` made of that; order
        0 is the draw.

        Args:
            u: Probabilities in (0, 1), shape ``(*many, *gates)``.
            prepared: Shape ``(*gates)``.
            orders: Which derivatives.

        Returns:
            For each order a tensor of the shape of ``u``; from order 1 on it is 0 where the draw
            is exactly 0 or 1.
        """
        shape = untyped.broadcast_shapes(u.shape, prepared.shape)
        return [
            differentiated(lambda la: self._quantile(u, la), order, prepared.expand(shape))
            for order in orders
        ]

    def evaluated(self, u: Tensor, prepared: Tensor, orders: Sequence[int]) -> list[Tensor]:
        """The numbers of :meth:`derivatives`, for tensors that nothing records or maps: in blocks
        that a cache holds.
        """
        gates = prepared.numel()
        if u.numel() <= GATES_IN_CACHE or u.shape[u.dim() - prepared.dim() :] != prepared.shape:
            return self.derivatives(u, prepared, orders)
        u_rows, row = u.reshape(-1, gates), prepared.reshape(-1)
        results = u.new_empty(len(orders), *u_rows.shape)
        step = max(GATES_IN_CACHE // gates, 1)
        for top in range(0, u_rows.shape[0], step):
            for left in range(0, gates, GATES_IN_CACHE):
                block = slice(top, top + step), slice(left, left + GATES_IN_CACHE)
                for result, values in zip(
                    results, self.derivatives(u_rows[block], row[block[1]], orders), strict=True
                ):
                    result[block] = values
        return list(results.reshape(len(orders), *u.shape))

    def _draws(
        self, order: int, log_alpha: Tensor, u: Tensor, recorded: bool = False
    ) -> tuple[Tensor, ...]:
        compute = self.derivatives if recorded else self.evaluated
        return tuple(compute(u, self.prepared(log_alpha), (order, order + 1)))

    def _moment_derivatives(self, order: int, log_alpha: Tensor) -> tuple[Tensor, ...]:
        """The derivatives of some order of mean and variance, and the next."""
        return tuple(
            value
            for k in (order, order + 1)
            for value in differentiated(self._mean_and_variance, k, log_alpha)
        )

    # What everyone may call.

    def sample(self, key: Tensor, log_alpha: Tensor, /) -> Tensor:
        """One draw for each gate, ``quantile(uniform(key), log_alpha)``.

        Args:
            key: A key, shape ``(2,)``.
            log_alpha: Gate locations, shape ``(*gates)``.

        Returns:
            Gates in [0, 1], shape ``(*gates)``.
        """
        return self.quantile(random.uniform(key, tuple(log_alpha.shape)), log_alpha)

    def quantile(self, u: Tensor, log_alpha: Tensor, /) -> Tensor:
        """The gate below which it falls with probability ``u``: the reparameterised draw.

        Args:
            u: Probabilities in (0, 1), a shape that broadcasts with the gates.
            log_alpha: Gate locations, shape ``(*gates)``.

        Returns:
            Gates in [0, 1]; their derivative with respect to ``log_alpha`` is 0 where they are
            exactly 0 or 1.
        """

        def draw(la: Tensor) -> Tensor:
            # What a compiler sees it fuses, slopes included.
            return (
                self._quantile(u.to(la.dtype), la)
                if compiling()
                else smooth(self._draws, 0, la, u.to(la.dtype))[0]
            )

        return _in_float(log_alpha, draw)

    def cdf(self, x: float | Tensor, log_alpha: Tensor, /) -> Tensor:
        r"""The probability of a gate of at most ``x``, :math:`P(z \le x)`.

        Args:
            x: Gate values; any real number, or a tensor that broadcasts with the gates.
            log_alpha: Gate locations, shape ``(*gates)``.

        Returns:
            Probabilities in [0, 1]: 0 below 0, 1 from 1 on.
        """

        def evaluate(la: Tensor) -> Tensor:
            at = torch.as_tensor(x, dtype=la.dtype, device=la.device)
            inside = self._cumulative(torch.where((at >= 0) & (at < 1), at, 0.5), la)
            return torch.where(at < 0, 0.0, torch.where(at >= 1, 1.0, inside))

        return _in_float(log_alpha, evaluate)

    def prob_nonzero(self, log_alpha: Tensor, /) -> Tensor:
        r"""Probability that each gate is open, :math:`P(z \ne 0)`.

        Args:
            log_alpha: Gate locations, shape ``(*gates)``.

        Returns:
            Probabilities in [0, 1], shape ``(*gates)``.
        """
        return _in_float(log_alpha, lambda la: self._survival(0.0, la))

    def prob_one(self, log_alpha: Tensor, /) -> Tensor:
        """Probability that each gate is exactly one, :math:`P(z = 1)`.

        Args:
            log_alpha: Gate locations, shape ``(*gates)``.

        Returns:
            Probabilities in [0, 1], shape ``(*gates)``.
        """
        return _in_float(log_alpha, lambda la: self._survival(1.0, la))

    def mean(self, log_alpha: Tensor, /) -> Tensor:
        r"""Exact expectation of each gate.

        .. math:: E[z] = \int_0^1 P(z > t)\, dt

        by Gauss-Legendre quadrature, with as many nodes as this distribution needs for 1e-11 in
        float64 and 1e-7 in float32.

        Args:
            log_alpha: Gate locations, shape ``(*gates)``.

        Returns:
            Expectations in [0, 1], shape ``(*gates)``.
        """
        return _in_float(
            log_alpha,
            lambda la: self._integral(la.dtype, lambda t: (1.0, self._survival(t, la))).clamp(
                max=1.0
            ),
        )

    def second_moment(self, log_alpha: Tensor, /) -> Tensor:
        r"""Exact second moment of each gate.

        .. math:: E[z^2] = \int_0^1 2t\, P(z > t)\, dt

        Args:
            log_alpha: Gate locations, shape ``(*gates)``.

        Returns:
            Expectations in [0, 1], shape ``(*gates)``.
        """
        return _in_float(
            log_alpha,
            lambda la: self._integral(la.dtype, lambda t: (2.0 * t, self._survival(t, la))).clamp(
                max=1.0
            ),
        )

    def variance(self, log_alpha: Tensor, /) -> Tensor:
        r"""Exact variance of each gate, without cancellation.

        .. math:: \mathrm{Var}[z] = E[z^2] - E[z]^2 = E[(1-z)^2] - E[1-z]^2

        the first for gates whose mean is below one half, the second for the others.

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
            Two tensors of shape ``(*gates)``.
        """
        wide = log_alpha if log_alpha.dtype == torch.float64 else log_alpha.to(torch.float32)
        mean, variance = (
            self._mean_and_variance(wide)
            if compiling()
            else smooth(self._moment_derivatives, 0, wide)[:2]
        )
        return mean.to(log_alpha.dtype), variance.to(log_alpha.dtype)

    def _mean_and_variance(self, la: Tensor) -> tuple[Tensor, Tensor]:
        m = self._moments(la)
        of_complement = m.complement_second - m.complement_mean**2
        variance = torch.where(m.mean < 0.5, m.second - m.mean**2, of_complement).clamp(min=0.0)
        return m.mean.clamp(max=1.0), variance

    def deterministic(self, log_alpha: Tensor, estimator: Estimator = "louizos", /) -> Tensor:
        """One fixed gate value, for test time.

        Args:
            log_alpha: Gate locations, shape ``(*gates)``.
            estimator: ``"louizos"``, the gate of the distribution's own paper; ``"median"``, the
                draw at u = 1/2; ``"mean"``, the exact expectation, which never closes.
                (``"count"`` ranks the gates of a vector and lives in ``deterministic_masks``.)

        Returns:
            Gates in [0, 1], shape ``(*gates)``.

        Raises:
            ValueError: The estimator is not one of these.
        """
        if estimator == "louizos":
            return _in_float(log_alpha, self._published)
        if estimator == "median":
            return self.quantile(torch.full((), 0.5, device=log_alpha.device), log_alpha)
        if estimator == "mean":
            return self.mean(log_alpha)
        raise ValueError(
            f"A gate's estimator is 'louizos', 'median' or 'mean'; got {estimator!r}."
        )

    def init(self, droprate: float, /, at: float = 0.0) -> float:
        r"""The location at which a gate is closed with probability ``droprate``.

        Args:
            droprate: :math:`P(z = 0)`, in (0, 1).
            at: Another threshold in [0, 1): the location at which :math:`P(z \le at)` is
                ``droprate``. The usual recipe ``logit(1 - droprate)`` of the hard concrete gate is
                ``at=0.5``.

        Returns:
            ``log_alpha``.

        Raises:
            ValueError: ``droprate`` is outside (0, 1), or ``at`` outside [0, 1).
        """
        if not 0.0 < droprate < 1.0:
            raise ValueError(
                f"droprate is the probability that a gate starts closed, strictly between 0 and "
                f"1; got {droprate}. "
                "For gates that stay open exclude the parameter (rule None)."
            )
        if not 0.0 <= at < 1.0:
            raise ValueError(
                f"The threshold of a droprate is a gate value in [0, 1); got at={at}."
            )
        return self._location(droprate, at)

    def to_dict(self) -> dict[str, Any]:
        """The distribution as JSON values, for :func:`l0func.distributions.from_dict`."""
        return {
            "kind": type(self).__name__,
            **{name: value for name, value in vars(self).items() if name not in _DERIVED},
        }

    # Integrals of the survival function.

    def _converged_quadrature(self, tolerance: float) -> Quadrature:
        """The smallest rule that integrates all four moments where the survival function bends
        most.
        """
        levels = (1e-4, 1e-2, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999)
        locations = [self._location(p, t) for p in levels for t in (0.0, 0.1, 0.5, 0.9, 0.999)]
        la = torch.tensor(locations, dtype=torch.float64)

        def evaluate(size: int) -> Tensor:
            object.__setattr__(self, "quadrature", self._nodes(size))
            return torch.stack(self._moments(la))

        size = converged(evaluate, tolerance)
        if size is None:
            raise ValueError(
                f"The moments of {self} need more than 512 quadrature nodes; its survival "
                f"function is close to a step. "
                "Choose a less extreme temperature or wider stretch limits."
            )
        return self._nodes(size)

    def _integral(
        self, dtype: torch.dtype, term: Callable[[float], tuple[float, Tensor]]
    ) -> Tensor:
        # A node at a time: the memory of one gate vector, not of one for each node.
        total: Tensor | float = 0.0
        for t, weight in zip(*self._quadrature_for(dtype), strict=True):
            factor, value = term(t)
            total = total + (weight * factor) * value
        assert isinstance(total, Tensor)
        return total

    def _quadrature_for(self, dtype: torch.dtype) -> Quadrature:
        return self.quadrature if dtype == torch.float64 else self.short_quadrature

    def _moments(self, la: Tensor) -> RawMoments:
        return RawMoments(
            self._integral(la.dtype, lambda t: (1.0, self._survival(t, la))),
            self._integral(la.dtype, lambda t: (2.0 * t, self._survival(t, la))),
            self._integral(la.dtype, lambda t: (1.0, self._cumulative(t, la))),
            self._integral(la.dtype, lambda t: (2.0 * (1.0 - t), self._cumulative(t, la))),
        )


_DERIVED = ("quadrature", "short_quadrature", "identity")
_QUADRATURES: dict[GateDistribution, tuple[Quadrature, Quadrature]] = {}
_NAMED: dict[str, GateDistribution] = {}


def named(identity: str) -> GateDistribution:
    """The distribution of this identity."""
    return _NAMED[identity]


def differentiated(f: Callable[[Tensor], Any], order: int, log_alpha: Tensor) -> Any:
    """The derivative of some order of a function of each location."""
    if order == 0:
        return f(log_alpha)

    def lower(la: Tensor) -> Any:
        return differentiated(f, order - 1, la)

    la = log_alpha.contiguous()
    return torch.func.jvp(lower, (la,), (torch.ones_like(la),))[1]


def rectify(y: Tensor) -> Tensor:
    """``y`` clipped to [0, 1], with derivative 0 at both ends and outside."""
    # torch.clamp passes the gradient of a draw that lands exactly on 0 or 1.
    return torch.where((y > 0) & (y < 1), y, (y >= 1).to(y.dtype))


def _in_float(log_alpha: Tensor, evaluate: Callable[[Tensor], Tensor]) -> Tensor:
    # Sixteen bits are enough to hold a gate, not to compute one.
    wide = log_alpha if log_alpha.dtype == torch.float64 else log_alpha.to(torch.float32)
    return evaluate(wide).to(log_alpha.dtype)
