"""Functions that a pure function may not call are refused by their names, at the user's line."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import l0func as l0
from l0func.pure.refused import REFUSED_HANDLERS

CALLS = {
    torch.poisson: lambda x: torch.poisson(x.abs()),
    torch.binomial: lambda x: torch.binomial(x.abs().round() + 1, torch.full_like(x, 0.5)),
    torch.native_dropout: lambda x: torch.native_dropout(x, 0.5, True)[0],
    torch._fused_dropout: lambda x: torch._fused_dropout(x, 0.5)[0],
    torch._standard_gamma: lambda x: torch._standard_gamma(x.abs() + 1),
    torch._sample_dirichlet: lambda x: torch._sample_dirichlet(x.abs() + 1),
    F.fractional_max_pool2d: lambda x: F.fractional_max_pool2d(x.view(1, 1, 4, 4), 2, 2),
    F.fractional_max_pool2d_with_indices: lambda x: F.fractional_max_pool2d_with_indices(
        x.view(1, 1, 4, 4), 2, 2
    )[0],
    F.fractional_max_pool3d: lambda x: F.fractional_max_pool3d(x.view(1, 1, 1, 4, 4), 1, 1),
    F.fractional_max_pool3d_with_indices: lambda x: F.fractional_max_pool3d_with_indices(
        x.view(1, 1, 1, 4, 4), 1, 1
    )[0],
    nn.init.kaiming_uniform_: lambda x: nn.init.kaiming_uniform_(x.clone().view(4, 4)),
    F.embedding: lambda x: F.embedding(torch.tensor([0]), x.view(4, 4), max_norm=1.0),
    F.embedding_bag: lambda x: F.embedding_bag(torch.tensor([[0]]), x.view(4, 4), max_norm=1.0),
}

_NAMES = "poisson|binomial|dropout|gamma|dirichlet|fractional|kaiming|max_norm"


class Calling(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x):
        return self.call(x)


def test_every_refused_function_has_a_call():
    assert CALLS.keys() >= REFUSED_HANDLERS.keys()


@pytest.mark.parametrize("function", CALLS, ids=lambda function: function.__name__)
def test_a_refused_function_is_named_and_draws_nothing(function):
    fn, params, buffers = l0.make_functional(Calling(CALLS[function]))
    x = torch.linspace(-2, 2, 16)
    before = torch.get_rng_state()
    with pytest.raises((RuntimeError, ValueError), match=_NAMES):
        fn(params, buffers, x)
    assert torch.equal(torch.get_rng_state(), before)
