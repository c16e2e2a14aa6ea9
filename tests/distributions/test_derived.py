"""What distributions compute from their settings: kept while it is used, and not for ever."""

from __future__ import annotations

import gc
import pickle
import weakref
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from sampled import one_in, sampled
from torch import Tensor

import l0func as l0
from l0func.distributions import derived
from l0func.distributions.identities import _DISTRIBUTIONS, distribution_of


@dataclass(frozen=True)
class SteepGate(l0.CustomGate):
    """A clipped logistic variable, of a user."""

    scale: float = 0.3

    def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        return 0.5 + log_alpha + self.scale * torch.logit(u)

    def survival(self, t: Any, log_alpha: Tensor) -> Tensor:
        return torch.sigmoid((0.5 + log_alpha - t) / self.scale)


KINDS = {
    "HardConcrete": l0.HardConcrete,
    "GaussianGate": l0.GaussianGate,
    "HardKuma": l0.HardKuma,
    "of a user": SteepGate,
}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
some_kinds = pytest.mark.parametrize("kind", sampled(KINDS.values(), one_in(2)), ids=list(KINDS))


@pytest.fixture
def _keeps_three(monkeypatch):
    """As in the library, for three distributions."""
    monkeypatch.setattr(derived, "_twin", derived.keeping(3))


@kinds
@pytest.mark.usefixtures("_keeps_three")
def test_annealing_keeps_the_last_distributions_and_no_more(kind):
    alive = [weakref.ref(kind(0.4 + step / 1000)) for step in range(6)]
    before = set(_DISTRIBUTIONS)
    for step in range(6):
        kind(0.5 + step / 1000)
    # At once: what waits for the collector adds up to megabytes.
    assert [ref() is not None for ref in alive] == [False] * 6
    assert len(set(_DISTRIBUTIONS) - before) == 3


@some_kinds
@pytest.mark.usefixtures("_keeps_three")
def test_a_text_finds_its_distribution_while_any_equal_one_lives(kind):
    first, second = kind(0.41), kind(0.41)
    copy, text = pickle.loads(pickle.dumps(first)), first.identity
    assert second.identity == copy.identity == text
    del first, second
    anneal = [kind(0.6 + step / 1000).identity for step in range(4)]
    third = kind(0.41)
    del copy
    anneal += [kind(0.7 + step / 1000).identity for step in range(4)]
    gc.collect()
    assert distribution_of(text) == third
    del third
    gc.collect()
    with pytest.raises(KeyError, match="no such distribution"):
        distribution_of(text)
    assert distribution_of(anneal[-1]) == kind(0.703)


@pytest.mark.compiles
@some_kinds
@pytest.mark.usefixtures("_keeps_three")
def test_a_compiled_function_builds_distributions_that_nothing_has_built(kind):
    la, u = torch.linspace(-3, 3, 9), torch.linspace(0.05, 0.95, 9)
    graphs = []

    def count(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def built_inside(la: Tensor, u: Tensor, setting: float) -> Tensor:
        return kind(setting).quantile(u, la) + kind(0.77).mean(la)

    torch._dynamo.reset()
    compiled = torch.compile(built_inside, fullgraph=True, backend=count)
    found = [compiled(la, u, setting) for setting in (0.51, 0.52, 0.53)]
    # What others build, and what is forgotten since, changes nothing for the graphs.
    others = [kind(0.8 + step / 1000) for step in range(4)]
    again = [compiled(la, u, setting) for setting in (0.51, 0.52, 0.53)]
    expected = [built_inside(la, u, setting) for setting in (0.51, 0.52, 0.53)]
    torch.testing.assert_close(found, expected)
    assert torch.equal(torch.stack(again), torch.stack(found))
    assert len(graphs) == 3
    assert others[0] != others[1]


@pytest.mark.compiles
@some_kinds
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "not strict"])
def test_an_exported_module_builds_distributions_that_nothing_has_built(kind, strict):
    class Mean(torch.nn.Module):
        def forward(self, la: Tensor) -> Tensor:
            return kind(0.531 if strict else 0.532).mean(la)

    la = torch.linspace(-3, 3, 9)
    exported = torch.export.export(Mean(), (la,), strict=strict)
    torch.testing.assert_close(exported.module()(la), Mean()(la))


@kinds
def test_a_distribution_is_built_among_fake_tensors(kind):
    fake = pytest.importorskip("torch._subclasses").FakeTensorMode
    with fake():
        built = kind(0.533)
    la = torch.linspace(-3, 3, 9)
    torch.testing.assert_close(built.mean(la), kind(0.533).mean(la))
