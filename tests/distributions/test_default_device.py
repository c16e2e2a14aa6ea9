"""A context's default device changes no gate: distributions compute where their locations lie."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optree
import pytest
import torch
from torch import Tensor

import l0func as l0
from l0func import random

pytestmark = pytest.mark.on_cpu

KEY = random.key(0)
LOCATIONS = torch.linspace(-3.0, 3.0, 101)


@dataclass(frozen=True)
class LogisticGate(l0.CustomGate):
    """A clipped logistic variable."""

    scale: float = 0.3

    def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        return 0.5 + log_alpha + self.scale * torch.logit(u)

    def survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return torch.sigmoid((0.5 + log_alpha - t) / self.scale)


GATES = [
    l0.HardConcrete(),
    l0.HardConcrete(0.5),
    l0.HardKuma(),
    l0.GaussianGate(),
    l0.BernoulliGate(),
    LogisticGate(),
]

every_gate = pytest.mark.parametrize("d", GATES, ids=lambda d: f"{type(d).__name__}")


def of_spec(d: l0.GateDistribution) -> Any:
    spec = l0.gate_spec({"w": torch.ones(2, 3, device="cpu")}, distribution=d)
    gates = {"w": LOCATIONS[:6].reshape(2, 3)}
    return l0.sample_masks(KEY, gates, spec), l0.deterministic_masks(gates, spec)


CALLS: dict[str, Callable[[l0.GateDistribution], Any]] = {
    "sample": lambda d: d.sample(KEY, LOCATIONS),
    "keys": lambda d: d.draws(random.split(KEY, 3), LOCATIONS, 5),
    "quantile": lambda d: d.quantile(LOCATIONS.sigmoid(), LOCATIONS),
    "moments": lambda d: d.mean_and_variance(LOCATIONS),
    "tails": lambda d: (d.prob_nonzero(LOCATIONS), d.prob_one(LOCATIONS)),
    "median": lambda d: d.deterministic(LOCATIONS, "median"),
    "cdf": lambda d: d.cdf(0.3, LOCATIONS),
    "location": lambda d: torch.tensor(d.init(0.3, at=0.2), device="cpu"),
    "masks": of_spec,
}


@every_gate
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_default_device_changes_no_result(d: Any, call: Callable[..., Any], device: str):
    expected = optree.tree_leaves(call(d))
    with torch.device(device):
        found = optree.tree_leaves(call(d))
    for a, b in zip(found, expected, strict=True):
        assert a.device.type == "cpu"
        assert torch.equal(a, b)


@every_gate
def test_distributions_are_built_and_copied_under_a_default_device(d: Any):
    with torch.device("meta"):
        assert copy.deepcopy(d) == d
        assert pickle.loads(pickle.dumps(d)) == d
        fresh = type(d)(0.37) if d.to_dict().keys() > {"kind"} else type(d)()
    assert fresh.sample(KEY, LOCATIONS).isfinite().all()
