"""A refusal inside of rows names the module, Function, parameter or input that it is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, spectral_norm

import l0func as l0
from l0func.engine.ops import HANDLERS

KEYS = l0.random.split(l0.random.key(0), 5)
X = l0.random.normal(l0.random.key(1), (5, 6))


def rows_of(net: nn.Module, rules: Any = None, **settings: Any) -> Callable[..., Any]:
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, rules)
    gates = l0.init_gates(l0.random.key(2), spec)
    rows = l0.per_example(l0.gated(fn, spec), **settings)
    return lambda *inputs, **named: rows(params, gates, buffers, KEYS, *inputs, **named)


def module_of(net: nn.Module, **settings: Any) -> Callable[..., Any]:
    return l0.L0Module(net, lam=0.0, per_example=True, seed=0, **settings)


class Calls(nn.Module):
    def __init__(self, step: Callable[..., Any]) -> None:
        super().__init__()
        self.layer, self.step = nn.Linear(6, 5), step

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.step(self.layer(inputs[0]), *inputs[1:], **named)


NORMALISED = {
    "parametrization": (parametrizations.spectral_norm, r"_SpectralNorm '0\.parametr"),
    "hook": (spectral_norm, "Linear '0'"),
}


@pytest.mark.parametrize("make", [rows_of, module_of])
@pytest.mark.parametrize("way", NORMALISED)
def test_an_out_that_torch_writes_names_the_module_and_what_works(way, make):
    normalised, name = NORMALISED[way]
    net = nn.Sequential(normalised(nn.Linear(6, 5)), nn.Linear(5, 3))
    words = rf"torch's own normalize\(\) in {name}.*eval mode.*one mask for the batch"
    with pytest.raises(ValueError, match=words) as caught:
        make(net)(X)
    assert "without out=" not in str(caught.value)
    net[0].eval()
    assert make(net)(X).shape == (5, 3)


@pytest.mark.parametrize(
    "step",
    [
        lambda y: torch.add(y, 1, out=torch.empty_like(y)),
        lambda y: F.normalize(y, out=torch.empty_like(y)),
        lambda y: torch.sort(y, out=(torch.empty_like(y), torch.empty_like(y).long()))[0],
    ],
)
def test_an_out_of_the_user_is_advised_against(step):
    with pytest.raises(
        ValueError, match=r"into an argument, out= .*that the function returns, wi"
    ):
        rows_of(Calls(step))(X)


@pytest.mark.skipif(not hasattr(torch.library, "custom_op"), reason="this torch has no custom_op")
def test_an_operation_without_a_rule_is_named_and_not_taken_for_an_out():
    @torch.library.custom_op(
        "l0func_tests::doubled_in_place", mutates_args=("a",), schema="(Tensor(a!) a) -> ()"
    )
    def doubled_in_place(a: Tensor) -> None:
        a.mul_(2)

    def step(y: Tensor) -> Tensor:
        y = y.clone()
        doubled_in_place(y)
        return y

    with pytest.raises(ValueError, match="the operation l0func_tests::doubled_in_place") as caught:
        rows_of(Calls(step))(X)
    assert "out= (" not in str(caught.value)


class WithoutSetup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad


class WithoutRule(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad


class WithRule(WithoutRule):
    generate_vmap_rule = True


def dirichlet(y: Tensor) -> Tensor:
    return torch.distributions.Dirichlet(y.exp()).rsample()


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (WithoutSetup.apply, "WithoutSetup, .*Give it setup_context.*generate_vmap_rule = True"),
        (WithoutRule.apply, "Function WithoutRule has no rule.*generate_vmap_rule = True"),
        (dirichlet, r"_Dirichlet, .*torch's own, in torch\.distributions\.dirichlet"),
    ],
)
def test_a_function_without_a_rule_for_rows_is_named_with_what_it_lacks(step, words):
    with pytest.raises(ValueError, match=words) as caught:
        rows_of(Calls(step))(X)
    assert "checkpoint" not in str(caught.value)


def test_a_function_with_what_the_refusals_ask_for_runs_in_rows():
    doubled, plain = rows_of(Calls(WithRule.apply))(X), rows_of(Calls(lambda y: 2 * y))(X)
    assert doubled.shape == plain.shape == (5, 5)


WRONG = {
    "width": (torch.ones(5, 7), r"shape \(1, 7\) and torch.float32.*sizes do not fit"),
    "double": (X.double(), r"shape \(1, 6\) and torch.float64.*pass the input as x.to\(torch"),
    "integers": (X.long(), r"shape \(1, 6\) and torch.int64.*pass the input as x.to\(torch"),
}


@pytest.mark.parametrize("rule", [l0.element(), l0.axis(0), l0.axis(1)], ids=str)
@pytest.mark.parametrize("case", WRONG)
def test_an_input_that_does_not_fit_a_gated_parameter_is_named_beside_it(case, rule):
    x, words = WRONG[case]
    words = rf"'linear' cannot take the parameter '0\.weight' of shape \(5, 6\).*{words}"
    with pytest.raises(ValueError, match=words):
        rows_of(nn.Sequential(nn.Linear(6, 5)), {"0.weight": rule})(x)


@pytest.mark.parametrize(
    ("net", "x", "words"),
    [
        (nn.Conv1d(2, 3, 2), torch.ones(5, 4, 8), r"'conv1d' .*'weight' of shape \(3, 2, 2\)"),
        (nn.Conv1d(2, 3, 2), torch.ones(5, 2, 8).double(), r"'conv1d' .*x\.to\(torch\.float32\)"),
        (nn.Embedding(6, 5), torch.ones(5), r"'embedding' .*'weight' of shape \(6, 5\)"),
    ],
)
def test_other_operations_name_the_parameter_too(net, x, words):
    with pytest.raises(ValueError, match=words):
        rows_of(net)(x)


@pytest.mark.parametrize("error", [RuntimeError("none"), torch.cuda.OutOfMemoryError("size")])
def test_an_error_that_is_not_about_sizes_stays_as_it_is(error, monkeypatch):
    def fails(*args: Any, **named: Any) -> Tensor:
        raise error

    monkeypatch.setitem(HANDLERS, F.linear, fails)
    with pytest.raises(type(error)) as caught:
        rows_of(nn.Linear(6, 5))(X)
    assert caught.value is error


def scaled(y: Tensor, scale: Any = 1.0) -> Tensor:
    return y * scale


BY_POSITION = "A keyword input has its rows along dimension 0.* by position"


@pytest.mark.parametrize("make", [rows_of, module_of])
@pytest.mark.parametrize(
    ("in_dims", "scale", "words"),
    [
        (0, torch.tensor(2.0), r"shape \(\), kwargs\['scale'\]"),
        ((0, None), torch.tensor(2.0), "2 entries for 1 inputs by position.*keyword: 'scale'"),
        (0, torch.ones(3), "the same number of rows"),
    ],
)
def test_a_shared_keyword_input_is_sent_to_a_place(make, in_dims, scale, words):
    with pytest.raises(ValueError, match=f"{words}.*{BY_POSITION}"):
        make(Calls(scaled), in_dims=in_dims)(X, scale=scale)
    shared = torch.tensor(2.0)
    assert make(Calls(scaled), in_dims=(0, None))(X, shared).shape == (5, 5)


def test_a_shared_number_by_position_is_sent_to_none():
    with pytest.raises(ValueError, match=r"inputs\[1\].*all rows share None"):
        rows_of(Calls(scaled))(X, torch.tensor(2.0))


class ReturnsWeight(nn.Module):
    def __init__(self, alone: bool) -> None:
        super().__init__()
        self.layer, self.alone = nn.Linear(6, 5), alone

    def forward(self, x: Tensor) -> Any:
        weight = self.layer.weight
        return self.layer(x), weight[None] if self.alone else weight


@pytest.mark.parametrize("rules", [None, {"layer.bias": l0.element()}], ids=["gated", "plain"])
def test_a_weight_among_the_outputs_is_returned_as_a_batch_of_one(rules):
    with pytest.raises(ValueError, match=r"such as a weight, as weight\[None\]"):
        rows_of(ReturnsWeight(alone=False), rules)(X)
    assert rows_of(ReturnsWeight(alone=True), rules)(X)[1].shape == (5, 5, 6)
