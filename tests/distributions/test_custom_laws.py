"""A law of one's own that contradicts itself is refused when it is built, at t = 0 and 1 too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import l0func as l0
from l0func.distributions.custom_checks import check_methods


@dataclass(frozen=True)
class Logistic(l0.CustomGate):
    """A clipped logistic variable, of which the tests break one method."""

    scale: float = 0.3

    def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        return 0.5 + log_alpha + self.scale * torch.logit(u)

    def survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return torch.sigmoid((0.5 + log_alpha - t) / self.scale)


@dataclass(frozen=True)
class WrongAt(Logistic):
    """P(z > t) has another value at one t alone."""

    t: float = 0.0
    probability: float = 1.0

    def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        return super().draw(u, log_alpha).clamp(0.0, 1.0)

    def survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        right = super().survival(t, log_alpha)
        wrong = torch.full_like(log_alpha, self.probability)
        at = torch.as_tensor(t, dtype=torch.float64)
        return torch.where(at == self.t, wrong, right)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_a_survival_function_that_is_wrong_at_0_alone_is_refused(probability: float):
    with pytest.raises(ValueError, match=r"P\(z > 0\) = .*(fewer|more) draws are larger than 0"):
        WrongAt(t=0.0, probability=probability)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_a_survival_function_that_is_wrong_at_1_alone_is_refused(probability: float):
    with pytest.raises(ValueError, match=r"WrongAt.survival\(1.0, log_alpha\) is P\(z = 1\)"):
        WrongAt(t=1.0, probability=probability)


def test_the_same_law_with_no_wrong_value_is_taken():
    gate = WrongAt(t=2.0)
    log_alpha = torch.tensor([-0.5, 0.5], dtype=torch.float64)
    torch.testing.assert_close(gate.prob_nonzero(log_alpha), Logistic().prob_nonzero(log_alpha))


@dataclass(frozen=True)
class Falling(Logistic):
    """Its location is read as the odds of a closed gate."""

    def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        return super().draw(u, -log_alpha)

    def survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return super().survival(t, -log_alpha)


def test_a_law_that_falls_in_its_location_is_refused():
    named = r"larger log_alpha.*Falling.*between log_alpha=-4.0 and -3.0.*write -log_alpha"
    with pytest.raises(ValueError, match=named):
        Falling()


@dataclass(frozen=True)
class NeverClosed(l0.CustomGate):
    """Values in (0, 1) that are not stretched."""

    def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        return torch.sigmoid(log_alpha + torch.logit(u))

    def survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return torch.sigmoid(log_alpha - torch.logit(torch.as_tensor(t, dtype=log_alpha.dtype)))


@dataclass(frozen=True)
class Stretched(NeverClosed):
    """The same law, as the message says."""

    def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        return 1.2 * super().draw(u, log_alpha) - 0.1

    def survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return super().survival((t + 0.1) / 1.2, log_alpha)


def test_a_law_that_never_closes_is_refused_and_the_advice_helps():
    with pytest.raises(ValueError, match=r"NeverClosed\(\) never closes.*1.2 \* value - 0.1"):
        NeverClosed()
    assert Stretched().prob_nonzero(torch.tensor(0.0)) < 1


@dataclass(frozen=True)
class Laplace(l0.CustomGate):
    """A law with a kink."""

    def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        v = u - 0.5
        return 0.5 + log_alpha - 0.25 * torch.sign(v) * torch.log1p(-2 * v.abs())

    def survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        z = (t - 0.5 - log_alpha) / 0.25
        low, high = 1 - 0.5 * torch.exp(z.clamp(max=0)), 0.5 * torch.exp(-z.clamp(min=0))
        return torch.where(z < 0, low, high)


def test_the_message_about_a_kink_offers_more_than_milder_settings():
    with pytest.raises(ValueError, match=r"kink.*smooth law near it"):
        Laplace()


@dataclass(frozen=True)
class OtherCumulative(Logistic):
    """Its two tails do not add up to one."""

    def survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return super().survival(t, log_alpha + 1.0)

    def cumulative(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return 1.0 - super().survival(t, log_alpha)


def test_a_cumulative_function_of_another_law_is_refused():
    with pytest.raises(ValueError, match=r"OtherCumulative.cumulative.*1 - survival"):
        OtherCumulative()


@dataclass(frozen=True)
class NotANumber(Logistic):
    """A survival function that is no number at 0."""

    def survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return super().survival(t, log_alpha) + 0.0 * torch.log(torch.as_tensor(t))


def test_a_probability_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match=r"NotANumber.*in \[0, 1\].*P\(z <= 0\) = nan"):
        NotANumber()


@dataclass(frozen=True)
class Slow(Logistic):
    """Its location counts in thousands, beyond the bounds of the search."""

    def draw(self, u: Tensor, log_alpha: Tensor) -> Tensor:
        return super().draw(u, log_alpha / 1000 + 0.5)

    def survival(self, t: float | Tensor, log_alpha: Tensor) -> Tensor:
        return super().survival(t, log_alpha / 1000 + 0.5)


@dataclass(frozen=True)
class WrongLocation(Logistic):
    """Its own location has another probability."""

    def location(self, probability: float, t: float) -> float:
        return probability


@pytest.mark.parametrize(
    ("gate", "advice"),
    [(Slow(), "define location"), (WrongLocation(), "Mend its method location")],
)
def test_a_start_that_does_not_have_its_droprate_is_refused(gate: Any, advice: str):
    spec = l0.gate_spec({"w": torch.ones(10)}, distribution=gate)
    with pytest.raises(ValueError, match=rf"no location with P\(z <= 0\) = 0.3.*{advice}"):
        l0.init_gates(l0.random.key(0), spec, droprate=0.3)


def test_a_setting_that_is_a_tensor_is_told_what_can_be_learned():
    scale: Any = torch.tensor(0.3)
    with pytest.raises(TypeError, match=r"scale is a tensor.*with_distribution.*is its log_alpha"):
        Logistic(scale)


class _Known:
    """The methods of a law of the library, as those of a user."""

    def __init__(self, law: Any) -> None:
        self.draw, self.survival = law._quantile, law._survival
        self.cumulative, self.fixed = law._cumulative, law._published


@pytest.mark.parametrize(
    "law",
    [
        l0.HardConcrete(),
        l0.HardConcrete(temperature=0.1),
        l0.HardConcrete(temperature=2.0),
        l0.HardConcrete(gamma=-1e-3, zeta=1.001),
        l0.GaussianGate(),
        l0.GaussianGate(sigma=0.1),
        l0.HardKuma(),
    ],
    ids=str,
)
def test_right_laws_pass_at_all_their_settings(law: Any):
    assert check_methods(_Known(law)) is None


@pytest.mark.parametrize("probability", [-0.2, 1.2, float("nan")])
def test_a_survival_function_that_is_no_probability_is_refused(probability: float):
    with pytest.raises(ValueError, match=r"gives probabilities in \[0, 1\] for every t"):
        WrongAt(0.25, 0.5, probability)
