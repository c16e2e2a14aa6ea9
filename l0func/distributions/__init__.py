"""Gate distributions, one file each, and their base class.

Specs hold a distribution for every gate vector; users pass one to ``gate_spec``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from l0func.distributions.base import Estimator, GateDistribution
from l0func.distributions.bernoulli import BernoulliGate
from l0func.distributions.custom import CustomGate
from l0func.distributions.gaussian_gate import GaussianGate
from l0func.distributions.hard_concrete import HardConcrete
from l0func.distributions.hard_kuma import HardKuma

__all__ = [
    "DISTRIBUTIONS",
    "BernoulliGate",
    "CustomGate",
    "Estimator",
    "GateDistribution",
    "GaussianGate",
    "HardConcrete",
    "HardKuma",
    "from_dict",
]

_CLASSES: list[type[GateDistribution]] = [HardConcrete, GaussianGate, HardKuma, BernoulliGate]

DISTRIBUTIONS = {cls.__name__: cls for cls in _CLASSES}
"""The distributions that :func:`from_dict` reads, by class name."""


def from_dict(record: Mapping[str, Any], /) -> GateDistribution:
    """The inverse of :meth:`GateDistribution.to_dict`.

    Args:
        record: ``{"kind": class name, field: value, ...}``.

    Returns:
        A distribution equal to the one written.

    Raises:
        ValueError: No distribution has this kind.
    """
    fields = dict(record)
    kind = fields.pop("kind", None)
    if kind not in DISTRIBUTIONS:
        raise ValueError(
            f"A distribution is one of {sorted(DISTRIBUTIONS)}; the record says {kind!r}."
        )
    return DISTRIBUTIONS[kind](**fields)
