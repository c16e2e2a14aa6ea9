"""Gate distributions: one file each, one vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from l0func.distributions.base import Estimator, GateDistribution
from l0func.distributions.bernoulli import BernoulliGate
from l0func.distributions.gaussian_gate import GaussianGate
from l0func.distributions.hard_concrete import HardConcrete
from l0func.distributions.hard_kuma import HardKuma

__all__ = [
    "DISTRIBUTIONS",
    "BernoulliGate",
    "Estimator",
    "GateDistribution",
    "GaussianGate",
    "HardConcrete",
    "HardKuma",
    "from_dict",
]

DISTRIBUTIONS: dict[str, type[GateDistribution]] = {
    cls.__name__: cls for cls in (HardConcrete, GaussianGate, HardKuma, BernoulliGate)
}


def from_dict(record: Mapping[str, Any], /) -> GateDistribution:
    """The distribution that ``to_dict`` wrote.

    Args:
        record: ``{"kind": class name, field: value, ...}``.

    Returns:
        An equal distribution.

    Raises:
        ValueError: The kind is unknown.
    """
    fields = dict(record)
    kind = fields.pop("kind", None)
    if kind not in DISTRIBUTIONS:
        raise ValueError(
            f"A distribution is one of {sorted(DISTRIBUTIONS)}; the record says {kind!r}."
        )
    return DISTRIBUTIONS[kind](**fields)
