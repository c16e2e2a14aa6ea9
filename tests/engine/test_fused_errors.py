"""Errors in a user's draw, where torch's compiler fuses it: they are the user's, with the line."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from sampled import one_in, sampled
from torch import Tensor, nn

import l0func as l0
from l0func import random
from l0func.kernels import fused

pytestmark = pytest.mark.compiles


@dataclass(frozen=True)
class Logistic(l0.CustomGate):
    """A clipped logistic variable, right in float64: in it the library checks what is built."""

    scale: float = 0.31

    def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        return 0.5 + log_alpha + self.scale * torch.logit(u)

    def survival(self, t: Any, log_alpha: Tensor) -> Tensor:
        return torch.sigmoid((0.5 + log_alpha - t) / self.scale)


@dataclass(frozen=True)
class OfOneDtype(Logistic):
    def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        one = torch.ones(1, 1, dtype=torch.float64, device=log_alpha.device)
        scaled = (log_alpha.reshape(-1, 1) @ one).reshape(log_alpha.shape)  # the user's line
        return super().draw(u, scaled)


@dataclass(frozen=True)
class Refusing(Logistic):
    def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        if log_alpha.dtype == torch.float32:
            raise TypeError("float64, please")  # the user's line
        return super().draw(u, log_alpha)


@dataclass(frozen=True)
class Misspelled(Logistic):
    def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        scale = self.scale if log_alpha.dtype == torch.float64 else self.scael  # the user's line
        return 0.5 + log_alpha + scale * torch.logit(u)


@dataclass(frozen=True)
class Branching(Logistic):
    """Right, with a branch on values: the compiler does not follow it."""

    def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        if bool((log_alpha > 1e6).any()):
            return super().draw(u, log_alpha.clamp(max=1e6))
        return super().draw(u, log_alpha)


def step(distribution: l0.CustomGate, compiled: bool) -> Tensor:
    """The outputs of rows whose masks are drawn inside of a compiled graph, or by its kernel."""
    net = nn.Linear(5, 3)
    nn.init.constant_(net.weight, 0.5)
    nn.init.zeros_(net.bias)
    fn, params, _ = l0.make_functional(net)
    spec = l0.gate_spec(params, {"weight": l0.element()}, distribution=distribution)
    gates = {gate.name: torch.zeros(gate.shape) for gate in spec.gates}
    rows = l0.per_example(l0.gated(fn, spec))
    call = torch.compile(rows, fullgraph=True, backend="aot_eager") if compiled else rows
    return call(params, gates, {}, random.split(random.key(1), 4), torch.ones(4, 5))


ERRORS = {
    "a product of two dtypes": (OfOneDtype(), RuntimeError, "dtype"),
    "a refusal": (Refusing(), TypeError, "float64, please"),
    "a misspelled setting": (Misspelled(), AttributeError, "scael"),
}


@pytest.mark.parametrize(
    "compiled", sampled([False, True], one_in(2)), ids=["alone", "in a graph"]
)
@pytest.mark.parametrize(("distribution", "kind", "words"), ERRORS.values(), ids=list(ERRORS))
def test_an_error_in_a_user_s_draw_is_raised_with_the_user_s_line(
    distribution, kind, words, compiled
):
    # Warnings are errors here, so the compiler is not blamed.
    l0.use_kernel("auto")
    with pytest.raises(kind, match=words) as caught:
        step(distribution, compiled)
    lines = [frame.line or "" for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert any("# the user's line" in line for line in lines)
    assert fused._COMPILER.works


def test_a_draw_that_the_compiler_does_not_follow_is_named_and_others_are_fused():
    fused._compiled.cache_clear()
    l0.use_kernel("auto")
    with pytest.warns(UserWarning, match=r"does not follow the draw of Branching\(scale=0.31\)"):
        first = step(Branching(), True)
    # Warnings are errors here: a second one would fail.
    torch.testing.assert_close(step(Branching(), True), first)
    torch.testing.assert_close(step(Logistic(), True), first)
    assert fused._COMPILER.works
    assert fused._compiled(Logistic(), (0,)).works
    assert not fused._compiled(Branching(), (0,)).works
