"""RMSNorms that strangers write out by hand: units of the residual stream under them can go."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cut_modules import wrong_removals
from torch import Tensor, nn
from torch.nn import functional as F

import l0func as l0

EPS = 0.3


class Norm(nn.Module):
    """A norm in one of many spellings; eps is large, so that a wrong one shows."""

    def __init__(self, width: int, formula: Callable[[Norm, Tensor], Tensor]) -> None:
        super().__init__()
        self.formula = formula
        self.weight, self.bias = (
            nn.Parameter(torch.rand(width) + 0.5),
            nn.Parameter(torch.rand(width)),
        )
        self.variance_epsilon, self.dim, self.scale = EPS, width, width**0.5
        self.config = SimpleNamespace(norm=SimpleNamespace(tiny=0.2))

    def forward(self, x: Tensor) -> Tensor:
        return self.formula(self, x)


def _llama(m: Norm, x: Tensor) -> Tensor:
    dtype = x.dtype
    x = x.to(torch.float64)
    variance = x.pow(2).mean(-1, keepdim=True)
    x = x * torch.rsqrt(variance + m.variance_epsilon)
    return m.weight * x.to(dtype)


def _gemma(m: Norm, x: Tensor) -> Tensor:
    y = x.double() * torch.rsqrt(x.double().pow(2).mean(-1, keepdim=True) + m.variance_epsilon)
    return (y * (1.0 + m.weight.double())).type_as(x)


def _weight_minus_a_number(m: Norm, x: Tensor) -> Tensor:
    y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + m.variance_epsilon)
    return y * (3 - 2 * m.weight)


def _number_from_a_weight(m: Norm, x: Tensor) -> Tensor:
    y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + m.variance_epsilon)
    return y * (2 * m.weight - 0.25)


def _divided(m: Norm, x: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean(dim=-1, keepdim=True) + m.variance_epsilon) * m.weight


def _inverse_root(m: Norm, x: Tensor) -> Tensor:
    return m.weight * x * (torch.mean(x**2, -1, True) + m.variance_epsilon) ** -0.5


def _inverted(m: Norm, x: Tensor) -> Tensor:
    rms = torch.sqrt(torch.mean(torch.square(x), dim=-1, keepdim=True) + m.variance_epsilon)
    return x * (1 / rms) * m.weight


def _weight_first(m: Norm, x: Tensor) -> Tensor:
    factor = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + m.variance_epsilon) * m.weight
    return x * factor


def _in_place(m: Norm, x: Tensor) -> Tensor:
    rms = x.pow(2).mean(-1, keepdim=True).add_(m.variance_epsilon).rsqrt_()
    return (x * rms).mul_(m.weight)


def _with_a_bias(m: Norm, x: Tensor) -> Tensor:
    return _divided(m, x) + m.bias


def _eps_in_a_config(m: Norm, x: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + m.config.norm.tiny).sqrt() * m.weight


def _eps_beside_the_root(m: Norm, x: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True).sqrt() + m.variance_epsilon) * m.weight


def _by_the_shape(m: Norm, x: Tensor) -> Tensor:
    rms = x.norm(dim=-1, keepdim=True) / math.sqrt(x.shape[-1])
    return x / (rms + m.variance_epsilon) * m.weight


def _by_an_inverse_root_of_the_shape(m: Norm, x: Tensor) -> Tensor:
    rms = torch.linalg.vector_norm(x, dim=-1, keepdim=True) * x.size(-1) ** -0.5
    return x / rms.clamp(min=m.variance_epsilon) * m.weight


def _by_an_attribute(m: Norm, x: Tensor) -> Tensor:
    return x / (x.norm(2, dim=-1, keepdim=True) * m.dim**-0.5 + m.variance_epsilon) * m.weight


def _sum_by_an_attribute(m: Norm, x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) / m.dim + m.variance_epsilon) * m.weight


def _normalized(m: Norm, x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1) * m.scale * m.weight


def _normalized_by_the_shape(m: Norm, x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1) * x.shape[-1] ** 0.5 * (m.weight + 1)


def _only_normalized(m: Norm, x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


def _literal(m: Norm, x: Tensor) -> Tensor:
    return m.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 0.25)


def _without_a_weight(m: Norm, x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + m.variance_epsilon)


def _exponential_weight(m: Norm, x: Tensor) -> Tensor:
    return m.weight.exp() * _without_a_weight(m, x)


def _by_torch(m: Norm, x: Tensor) -> Tensor:
    return F.rms_norm(x, (m.dim,), m.weight, m.variance_epsilon)


def _by_torch_and_nothing_else(m: Norm, x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),), eps=0.4)


SPELLINGS = [
    _llama,
    _gemma,
    _weight_minus_a_number,
    _number_from_a_weight,
    _divided,
    _inverse_root,
    _inverted,
    _weight_first,
    _in_place,
    _with_a_bias,
    _eps_in_a_config,
    _eps_beside_the_root,
    _by_the_shape,
    _by_an_inverse_root_of_the_shape,
    _by_an_attribute,
    _sum_by_an_attribute,
    _normalized,
    _normalized_by_the_shape,
    _only_normalized,
    _literal,
    _without_a_weight,
    _exponential_weight,
]
if hasattr(F, "rms_norm"):
    SPELLINGS += [_by_torch, _by_torch_and_nothing_else]


class Stream(nn.Module):
    """A residual stream with a norm before every block and at the end."""

    def __init__(self, formula: Callable[[Norm, Tensor], Tensor]) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(5, 12), nn.Linear(12, 3)
        self.norms = nn.ModuleList(Norm(12, formula) for _ in range(3))
        self.ups = nn.ModuleList(nn.Linear(12, 7) for _ in range(2))
        self.downs = nn.ModuleList(nn.Linear(7, 12) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        for norm, up, down in zip(self.norms, self.ups, self.downs, strict=False):
            h = h + down(F.gelu(up(norm(h))))
        return self.head(self.norms[2](h))


@pytest.mark.parametrize("formula", SPELLINGS)
def test_a_residual_stream_loses_units_exactly_whatever_the_spelling_of_its_norms(formula):
    torch.manual_seed(0)
    module, x = Stream(formula).eval(), torch.randn(2, 4, 5)
    groups = l0.unit_groups(module, x)
    assert groups.sizes == {"embed": 12, "ups.0": 7, "ups.1": 7}
    assert groups.normed == {"embed"}
    assert wrong_removals(module, (x,), groups, draws=12) == []


class Inside(nn.Module):
    """A norm over the hidden units of a block, behind a product that no scale passes."""

    def __init__(self, formula: Callable[[Norm, Tensor], Tensor]) -> None:
        super().__init__()
        self.gate, self.up, self.norm = nn.Linear(5, 12), nn.Linear(5, 12), Norm(12, formula)
        self.down = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.norm(F.silu(self.gate(x)) * self.up(x))))


def _weight_plus_a_number_scaled(m: Norm, x: Tensor) -> Tensor:
    return _without_a_weight(m, x) * (4 * (m.weight + 0.5))


def _weight_over_a_number(m: Norm, x: Tensor) -> Tensor:
    return _without_a_weight(m, x) * ((m.weight + 0.5) / 4)


def _a_tensor_over_a_norm(m: Norm, x: Tensor) -> Tensor:
    rms = x.norm(dim=-1, keepdim=True) + m.variance_epsilon
    return x * (torch.tensor(x.shape[-1] ** 0.5) / rms) * m.weight


def _by_torch_and_the_shape(m: Norm, x: Tensor) -> Tensor:
    return F.rms_norm(x, (m.dim,), eps=m.variance_epsilon) * x.shape[-1] ** -0.5 * m.weight


def _doubled_sum_over_a_literal(m: Norm, x: Tensor) -> Tensor:
    # As many as the units, but no size: it stays when some go.
    y = x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) / 12.0 + m.variance_epsilon)
    return 2.0 * y * m.weight


def _switched_off(m: Norm, x: Tensor) -> Tensor:
    return x - 0.0 * _llama(m, x)


OWN_NUMBERS = [
    _llama,
    _gemma,
    _weight_minus_a_number,
    _number_from_a_weight,
    _weight_plus_a_number_scaled,
    _weight_over_a_number,
    _eps_beside_the_root,
    _by_the_shape,
    _by_an_inverse_root_of_the_shape,
    _a_tensor_over_a_norm,
    _doubled_sum_over_a_literal,
    _normalized_by_the_shape,
    _switched_off,
]
if hasattr(F, "rms_norm"):
    OWN_NUMBERS.append(_by_torch_and_the_shape)


@pytest.mark.parametrize("formula", OWN_NUMBERS)
def test_a_norm_with_weight_and_eps_of_its_own_may_stand_between_nonlinear_operations(formula):
    torch.manual_seed(0)
    module, x = Inside(formula).eval(), torch.randn(4, 5)
    groups = l0.unit_groups(module, x)
    assert groups.sizes == {"gate": 12}
    assert wrong_removals(module, (x,), groups, draws=12) == []


def test_the_factors_are_those_of_the_formula():
    module, x = Inside(_llama).double().eval(), torch.randn(4, 5).double()
    fn, params, buffers = l0.make_functional(module)
    spec = l0.gate_spec(params, groups=l0.unit_groups(module, x))
    gates = {"gate": torch.tensor([9.0] * 3 + [-9.0] * 9, dtype=torch.float64)}
    small = l0.compact(fn, params, gates, buffers, spec, example_inputs=x)
    norm = l0.to_module(*small).norm
    assert norm.variance_epsilon == pytest.approx(EPS * 12 / 3)
    torch.testing.assert_close(norm.weight.data, module.norm.weight.data[:3] * (12 / 3) ** 0.5)


class ResponseNorm(nn.Module):
    """Global response normalisation as in ConvNeXt V2, channels last."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma, self.beta = (nn.Parameter(torch.rand(1, 1, 1, width)) for _ in range(2))
        self.eps = EPS

    def forward(self, x: Tensor) -> Tensor:
        g = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
        n = g / (g.mean(dim=-1, keepdim=True) + self.eps)
        return self.gamma * (x * n) + self.beta + x


class ChannelNorm(nn.Module):
    """An RMSNorm over the channels of images."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.g, self.e = nn.Parameter(torch.rand(width, 1, 1) + 0.5), EPS

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.pow(2).mean(1, keepdim=True) + self.e).rsqrt() * self.g


def test_the_hidden_units_of_a_block_with_response_normalisation_can_go():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 8), nn.GELU(), ResponseNorm(8), nn.Linear(8, 2)).eval()
    x = torch.randn(2, 4, 5, 3)
    groups = l0.unit_groups(module, x)
    assert groups.sizes == {"0": 8}
    assert wrong_removals(module, (x,), groups, draws=12) == []


def test_channels_under_a_written_norm_can_go():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 8, 3), ChannelNorm(8), nn.SiLU(), nn.Conv2d(8, 2, 3)
    ).eval()
    x = torch.randn(2, 1, 7, 7)
    groups = l0.unit_groups(module, x)
    assert groups.sizes == {"0": 8}
    assert wrong_removals(module, (x,), groups, draws=12) == []


def _layer_norm(m: Norm, x: Tensor) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * m.weight


def _added(m: Norm, x: Tensor) -> Tensor:
    return x + x.pow(2).mean(-1, keepdim=True).sqrt()


def _dividend(m: Norm, x: Tensor) -> Tensor:
    return x.pow(2).mean(-1, keepdim=True) / (1 + x.square())


def _squashed(m: Norm, x: Tensor) -> Tensor:
    return x * x.mean(-1, keepdim=True).sigmoid()


def _softmax(m: Norm, x: Tensor) -> Tensor:
    return x * x.softmax(-1)


def _by_the_largest(m: Norm, x: Tensor) -> Tensor:
    return x / x.std(-1, keepdim=True)


@pytest.mark.parametrize(
    ("formula", "name"),
    [
        (_layer_norm, "mean"),
        (_added, "mean"),
        (_dividend, "mean"),
        (_squashed, "mean"),
        (_softmax, "_softmax"),
        (_by_the_largest, "std|var"),
    ],
)
def test_neighbours_that_are_no_norm_keep_the_units_and_are_named(formula: Any, name: str):
    with pytest.raises(ValueError, match=rf"'gate.weight': the operation '({name})' runs over"):
        l0.unit_groups(Inside(formula).eval(), torch.randn(4, 5))


def _shifted(m: Norm, x: Tensor) -> Tensor:
    return _llama(m, x + 1.0)


def _mean_of_sigmoids(m: Norm, x: Tensor) -> Tensor:
    return m.weight * x / x.sigmoid().mean(-1, keepdim=True)


@pytest.mark.parametrize("formula", [_shifted, _mean_of_sigmoids])
def test_where_a_closed_unit_is_not_zero_under_the_norm_the_trial_refuses(formula):
    with pytest.raises(ValueError, match=r"'gate.weight': a trial .* the outputs differ"):
        l0.unit_groups(Inside(formula).eval(), torch.randn(4, 5))


def test_eps_that_nobody_can_scale_before_a_nonlinear_operation_is_refused():
    with pytest.raises(ValueError, match=r"'gate.weight': a trial .* the outputs differ"):
        l0.unit_groups(Inside(_literal).eval(), torch.randn(4, 5))
