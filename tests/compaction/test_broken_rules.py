"""The trial is the last line of defence: a wrong rule removes nothing in silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from traces import Between

import l0func as l0
from l0func.compaction import grouping
from l0func.tracing.call import Call
from l0func.tracing.step import Step, Transfer
from l0func.tracing.transfers import TRANSFERS


def passes(step: Step, call: Call) -> None:
    """A rule that forgets what the operation does: each output has its input's units."""
    labels = step.labels(call.args[0])
    for output in call.outputs:
        step.set(output, labels if output.shape == labels.shape else labels.amax(-1, keepdim=True))


def forgets(step: Step, call: Call) -> None:
    """A rule that takes the output for a constant."""
    for output in call.outputs:
        step.set(output, torch.full(output.shape, -1))


BROKEN: dict[str, tuple[str, Transfer, Callable[[Tensor], Tensor]]] = {
    "a softmax": ("_softmax", passes, lambda h: h.softmax(-1)),
    "a LayerNorm": ("native_layer_norm", passes, lambda h: F.layer_norm(h, h.shape[-1:])),
    "a group norm": ("native_group_norm", passes, lambda h: F.group_norm(h.mT, 1).mT),
    "a sort": ("sort", passes, lambda h: h.sort(-1).values),
    "a flip": ("flip", passes, lambda h: h.flip(-1)),
    "a roll": ("roll", passes, lambda h: h.roll(1, -1)),
    "a pooling": ("avg_pool2d", passes, lambda h: F.avg_pool2d(h, (1, 3), 1, (0, 1))),
    # Zeros in place of the weights that make a unit hide that these mix units.
    "a cumsum": ("cumsum", passes, lambda h: h.cumsum(-1)),
    "a cummax": ("cummax", passes, lambda h: h.relu().cummax(-1).values),
    "a sum": ("sum", forgets, lambda h: h + h.sum(-1, keepdim=True)),
    "a length": ("linalg_vector_norm", forgets, lambda h: h * h.norm(dim=-1, keepdim=True)),
    "a largest one": ("amax", forgets, lambda h: h.relu() - h.relu().amax(-1, keepdim=True)),
    "a product of all": ("bmm", passes, lambda h: h @ torch.ones(len(h), 6, 6).triu()),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_trial_refuses_units_that_a_broken_rule_lets_go(name: str, monkeypatch: Any):
    operation, wrong, function = BROKEN[name]
    torch.manual_seed(0)
    width = function(torch.rand(2, 3, 6)).shape[-1]
    net = Between(nn.Linear(4, 6), function, nn.Linear(width, 2)).eval()
    monkeypatch.setitem(TRANSFERS, operation, wrong)
    with pytest.raises(ValueError, match=r"'first.weight': a trial without some of them failed"):
        l0.unit_groups(net, torch.randn(2, 3, 4))


@pytest.mark.parametrize("power", [0.4, -0.5, 1.0])
def test_the_trial_refuses_a_wrong_factor_for_a_norm(power: float, monkeypatch: Any):
    def wrong(run: Any, trace: Any) -> list[Any]:
        scale = {"power": power, "of": "first.weight", "dim": 0}
        return [{"last.weight": scale}]

    def norm(h: Tensor) -> Tensor:
        return h * h.pow(2).mean(-1, keepdim=True).rsqrt()

    torch.manual_seed(0)
    net = Between(nn.Linear(4, 6), norm, nn.Linear(6, 2)).eval()
    assert l0.unit_groups(net, torch.randn(2, 3, 4)).sizes == {"first": 6}
    monkeypatch.setattr(grouping, "scale_choices", wrong)
    with pytest.raises(ValueError, match=r"'first.weight': a trial .* the outputs differ"):
        l0.unit_groups(net, torch.randn(2, 3, 4))


def test_a_small_eps_that_stays_shows_in_the_trial():
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(6))

        def forward(self, h: Tensor) -> Tensor:
            variance = h.float().pow(2).mean(-1, keepdim=True)
            return F.silu(self.weight * (h.float() * torch.rsqrt(variance + 1e-5)).to(h.dtype))

    torch.manual_seed(0)
    net = Between(nn.Linear(4, 6), Small(), nn.Linear(6, 2)).eval()
    with pytest.raises(ValueError, match=r"'first.weight': a trial .* the outputs differ"):
        l0.unit_groups(net, torch.randn(2, 3, 4))


def test_units_that_only_random_numbers_survive_are_refused():
    class Log(nn.Module):
        def forward(self, h: Tensor) -> Tensor:
            return h.abs().log()

    torch.manual_seed(0)
    net = Between(nn.Linear(4, 6), Log(), nn.Linear(6, 2)).eval()
    with pytest.raises(ValueError, match=r"'first.weight': a trial .* differ from the pruned"):
        l0.unit_groups(net, torch.randn(2, 3, 4))
