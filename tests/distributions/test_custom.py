"""A distribution of one's own: two methods suffice everywhere, and mistakes are named."""

from __future__ import annotations

import copy
import pickle
import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import l0func as l0
from l0func import random


@dataclass(frozen=True)
class LogisticGate(l0.CustomGate):
    """A clipped logistic variable."""

    scale: float = 0.3

    def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        return 0.5 + log_alpha + self.scale * torch.logit(u)

    def survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return torch.sigmoid((0.5 + log_alpha - t) / self.scale)


GATE = LogisticGate()
LOCATIONS = torch.linspace(-2, 2, 9, dtype=torch.float64)
HOOKS = {"_quantile", "_survival", "_cumulative", "_published", "_location"}
"""What a distribution from the base class itself has to define."""


def test_moments_are_those_of_the_draws():
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    draws = GATE.quantile(u[:, None], LOCATIONS)
    torch.testing.assert_close(GATE.mean(LOCATIONS), draws.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(GATE.variance(LOCATIONS), draws.var(0), rtol=1e-3, atol=1e-5)
    opened = (draws != 0).double().mean(0)
    torch.testing.assert_close(GATE.prob_nonzero(LOCATIONS), opened, rtol=1e-4, atol=1e-5)


def test_its_start_closes_as_many_gates_as_asked_for():
    at = torch.tensor(GATE.init(0.3), dtype=torch.float64)
    torch.testing.assert_close(1 - GATE.prob_nonzero(at), torch.tensor(0.3, dtype=torch.float64))


def test_its_derivatives_are_those_of_the_draw():
    la = torch.linspace(-0.4, 0.4, 5, dtype=torch.float64, requires_grad=True)
    u = torch.tensor(0.45, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a: GATE.quantile(u, a), la)
    assert torch.autograd.gradgradcheck(GATE.mean, la)


@pytest.mark.parametrize("sampling", ["exact", "local_reparam"])
def test_a_network_trains_prunes_and_gets_smaller_under_it(sampling: Any):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), torch.randn(16, 4)
    fn, params, buffers = l0.make_functional(net)
    groups = l0.unit_groups(net, x)
    spec = l0.gate_spec(params, {"0.weight": l0.element()}, groups=groups, distribution=GATE)
    rows = l0.per_example(l0.gated(fn, spec, sampling=sampling))

    def loss(p: Any, g: Any, b: Any, keys: Tensor, x: Tensor) -> Tensor:
        keys = random.split(keys, len(x))
        return rows(p, g, b, keys, x).square().mean() + l0.penalty(p, g, spec, 1e-2)

    adam = l0.optimizer(torch.optim.Adam, lr=0.05)
    fitting = l0.training(loss, adam, adam)
    gates = l0.init_gates(random.key(0), spec)
    state = fitting.init(random.key(1), params, gates, buffers)
    for _ in range(30):
        state, value = fitting.step(state, x)
    assert value.isfinite()
    assert l0.expected_l0(state.gates, spec) < l0.expected_l0(gates, spec)
    closed = {name: torch.full_like(la, 9.0) for name, la in state.gates.items()}
    closed["0"][:3] = -9.0
    assert l0.summary(state.params, closed, spec)["0.bias"].realised_open == 5
    small = l0.compact(fn, state.params, closed, buffers, spec, example_inputs=x)
    assert small.params["0.weight"].shape == (5, 4)


def test_a_missing_method_is_named_when_it_is_built():
    @dataclass(frozen=True)
    class Half(l0.CustomGate):
        def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
            return u + log_alpha

    unfinished: Any = Half
    with pytest.raises(TypeError, match=r"Half.*survival"):
        unfinished()


@pytest.mark.parametrize("missing", sorted(HOOKS))
def test_a_distribution_from_the_base_class_itself_has_every_hook(missing: str):
    hooks = dict.fromkeys(HOOKS - {missing}, LogisticGate.draw)
    unfinished: Any = type("Half", (l0.GateDistribution,), hooks)
    with pytest.raises(TypeError, match=rf"Half.*{missing}"):
        unfinished()


def test_a_class_that_is_no_frozen_dataclass_is_named():
    class Plain(LogisticGate):
        pass

    with pytest.raises(TypeError, match=r"frozen dataclass.*decorate Plain"):
        Plain()

    class Bare(l0.CustomGate):
        draw = LogisticGate.draw
        survival = LogisticGate.survival

    with pytest.raises(TypeError, match=r"Bare was not built whole.*@dataclass\(frozen=True\)"):
        l0.gate_spec({"w": torch.ones(3)}, distribution=Bare())

    @dataclass(frozen=True)
    class Forgetful(LogisticGate):
        def __post_init__(self) -> None:
            pass

    with pytest.raises(TypeError, match=r"Forgetful was not built.*super\(\).__post_init__"):
        l0.gate_spec({"w": torch.ones(3)}, distribution=Forgetful())


def test_a_tensor_among_the_settings_is_named():
    scale: Any = torch.tensor(0.3)
    with pytest.raises(TypeError, match="scale is a tensor"):
        LogisticGate(scale)


@pytest.mark.parametrize("method", ["draw", "survival"])
def test_a_method_that_leaves_float64_is_named_with_its_precision(method: str):
    @dataclass(frozen=True)
    class Short(LogisticGate):
        def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
            y = super().draw(u, log_alpha)
            return y.float() if method == "draw" else y

        def survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
            y = super().survival(t, log_alpha)
            return y.float() if method == "survival" else y

    with pytest.raises(ValueError, match=rf"Short.{method} .*got float64 and.*float32"):
        Short()


def test_float32_in_the_middle_of_a_method_is_named():
    @dataclass(frozen=True)
    class Rounded(LogisticGate):
        def survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
            return super().survival(t, log_alpha).float().double()

    with pytest.raises(ValueError, match=r"precision of float64.*computes in float32"):
        Rounded()


def test_a_draw_with_another_survival_function_is_named():
    @dataclass(frozen=True)
    class Wrong(LogisticGate):
        def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
            return 0.5 + log_alpha - self.scale * torch.logit(u)

    with pytest.raises(ValueError, match=r"do not have its survival function.*growing in u"):
        Wrong()


@dataclass(frozen=True)
class BentGate(LogisticGate):
    """Draws that are right at both ends, and too low or too high between them."""

    bend: float = 1.0

    def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        return super().draw(u**self.bend, log_alpha)


@pytest.mark.parametrize("bend", [0.5, 0.8, 1.25, 2.0])
def test_draws_that_are_too_low_or_too_high_are_named(bend):
    BentGate()
    with pytest.raises(ValueError, match="do not have its survival function"):
        BentGate(bend=bend)


@dataclass(frozen=True)
class DentedGate(LogisticGate):
    """Draws that fall with the probability around one location, and are right elsewhere."""

    dent: float = 100.0

    def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        falls = (log_alpha - self.dent).abs() < 0.4
        return super().draw(torch.where(falls, 1 - u, u), log_alpha)


@pytest.mark.parametrize("dent", [-1.0, 0.0, 1.0])
def test_draws_that_are_wrong_around_one_location_are_named_with_it(dent):
    DentedGate()
    with pytest.raises(ValueError, match=rf"at log_alpha={dent} it says P\(z > ") as refusal:
        DentedGate(dent=dent)
    t, says = re.search(r"P\(z > (\S+)\) = (\S+),", str(refusal.value)).groups()
    log_alpha = torch.tensor(dent, dtype=torch.float64)
    assert float(says) == pytest.approx(
        float(DentedGate().survival(float(t), log_alpha)), abs=1e-4
    )


@pytest.mark.parametrize("gate", [GATE, l0.HardConcrete(), l0.HardKuma()], ids=str)
def test_slopes_of_draws_of_many_keys_are_those_of_each(gate):
    keys = random.split(random.split(random.key(3), 2), 3)

    def slopes(keys: Tensor) -> Tensor:
        la = torch.linspace(-1, 1, 4, dtype=torch.float64, requires_grad=True)
        (found,) = torch.autograd.grad(gate.sample(keys, la).sum(), la)
        return found

    of_each = [slopes(key) for key in keys.reshape(-1, 2)]
    torch.testing.assert_close(slopes(keys), torch.stack(of_each).sum(0))
    weights = torch.arange(6.0, dtype=torch.float64).reshape(2, 3, 1)

    def weighted(la: Tensor) -> Tensor:
        return (weights * gate.sample(keys, la)).sum()

    la = torch.linspace(-1, 1, 4, dtype=torch.float64)
    expected = (weights.reshape(-1, 1) * torch.stack(of_each)).sum(0)
    torch.testing.assert_close(torch.func.grad(weighted)(la), expected)


@dataclass(frozen=True)
class ShiftedGate(LogisticGate):
    """Its settings have the names of attributes that other distributions compute."""

    limits: float = 0.0
    nodes: float = 0.0

    def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        return super().draw(u, log_alpha + self.limits + self.nodes)

    def survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return super().survival(t, log_alpha + self.limits + self.nodes)


def test_a_setting_with_any_name_survives_a_copy_and_a_pickle():
    gate = ShiftedGate(0.3, 1.0, -3.0)
    for twin in (copy.deepcopy(gate), pickle.loads(pickle.dumps(gate))):
        assert twin == gate
        assert (twin.limits, twin.nodes) == (1.0, -3.0)
    assert gate.to_dict() == {"kind": "ShiftedGate", "scale": 0.3, "limits": 1.0, "nodes": -3.0}
    assert ShiftedGate(0.3, 2.0).identity != gate.identity
