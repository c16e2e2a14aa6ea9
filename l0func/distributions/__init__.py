"""Gate distributions, one file each, and their base class.

Specs hold a distribution for every gate vector; users pass one to ``gate_spec``.
"""

from __future__ import annotations

from l0func.distributions.base import Estimator, GateDistribution
from l0func.distributions.bernoulli import BernoulliGate
from l0func.distributions.custom import CustomGate
from l0func.distributions.gaussian_gate import GaussianGate
from l0func.distributions.hard_concrete import HardConcrete
from l0func.distributions.hard_kuma import HardKuma
from l0func.distributions.registry import DISTRIBUTIONS, from_dict, register

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
    "register",
]
