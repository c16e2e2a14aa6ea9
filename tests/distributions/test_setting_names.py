"""A setting of one's own distribution has any name that the library does not use."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass, make_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import l0func as l0
from l0func import random


@dataclass(frozen=True)
class Known(l0.CustomGate):
    """A clipped logistic variable; its settings have names that formulas use for their own."""

    nodes: float = 0.3
    known: float = 1.0

    def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        return 0.5 + log_alpha + self.nodes * self.known * torch.logit(u)

    def survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return torch.sigmoid((0.5 + log_alpha - t) / (self.nodes * self.known))


def test_every_setting_survives_copies_and_dictionaries():
    gate = Known(0.6, 0.5)
    for other in (copy.copy(gate), copy.deepcopy(gate), pickle.loads(pickle.dumps(gate))):
        assert other == gate
        assert other.identity == gate.identity
    assert gate.to_dict() == {"kind": "Known", "nodes": 0.6, "known": 0.5}


def test_a_compiled_graph_tells_distributions_apart_by_every_setting():
    assert Known(0.3).identity != Known(0.6).identity
    la = torch.zeros(20)
    drawn = [Known(scale).sample(random.key(0), la) for scale in (0.3, 0.6)]
    assert not torch.equal(*drawn)


@pytest.mark.parametrize("name", ["formula", "identity", "quadratures", "mean", "_quantile"])
@pytest.mark.parametrize("parent", [Known, l0.HardConcrete, l0.BernoulliGate])
def test_a_name_that_the_library_uses_is_refused(name: str, parent: Any):
    kind: Any = make_dataclass("Mine", [(name, float, 0.3)], bases=(parent,), frozen=True)
    with pytest.raises((ValueError, TypeError), match=rf"'{name}' belongs to .*rename .* Mine"):
        kind()


@pytest.mark.parametrize("name", ["written", "limits", "known", "nodes"])
def test_a_subclass_of_the_librarys_keeps_off_the_values_of_its_formula(name: str):
    bases = (l0.HardConcrete,)
    kind: Any = make_dataclass("Mine", [(name, float, 0.3)], bases=bases, frozen=True)
    with pytest.raises(ValueError, match=rf"'{name}' belongs to FormulaGate; rename"):
        kind()
