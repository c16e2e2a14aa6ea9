"""L0Module where its owner changes layers, nests it, or evaluates in inference mode."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import l0func as l0

X = torch.linspace(-1, 1, 24).reshape(6, 4)


def other_size(net: nn.Sequential) -> None:
    net[2] = nn.Linear(5, 7)


def tied(net: nn.Sequential) -> None:
    net[2].weight = net[0].weight


def parametrized(net: nn.Sequential) -> None:
    nn.utils.parametrize.register_parametrization(net[0], "weight", nn.Identity())


def removed(net: nn.Sequential) -> None:
    del net[2]


@pytest.mark.parametrize("change", [other_size, tied, parametrized, removed])
@pytest.mark.parametrize("training", [False, True])
def test_a_layer_that_its_gates_do_not_fit_is_named(change, training):
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    wrapped = l0.L0Module(net, 1e-3, seed=0).train(training)
    change(wrapped.module)
    with pytest.raises(ValueError, match=r"wrapped a module with a parameter '[02].*and now it"):
        wrapped(X)


def norm() -> l0.L0Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    return l0.L0Module(net, 1e-3, seed=0)


@pytest.mark.parametrize("training", [False, True])
def test_inference_mode_gives_what_no_grad_gives(training):
    ours, twin = norm().train(training), norm().train(training)
    for _ in range(2):
        with torch.inference_mode():
            y = ours(X)
        with torch.no_grad():
            expected = twin(X)
        torch.testing.assert_close(y.clone(), expected)
    buffers = dict(ours.module.named_buffers())
    torch.testing.assert_close(buffers, dict(twin.module.named_buffers()))
    assert not any(buffer.is_inference() for buffer in buffers.values())
    ours.train()(X).sum().backward()


def test_a_training_l0_module_in_a_pure_function_is_refused_and_in_eval_mode_runs():
    net = nn.Sequential(norm(), nn.Linear(2, 2))
    fn, params, buffers = l0.make_functional(net)
    with pytest.raises(ValueError, match="L0Module in training ran inside a function of make_f"):
        fn.with_buffers(params, buffers, X)
    spec = l0.gate_spec(params, {"1.weight": l0.element()})
    gates = l0.init_gates(l0.random.key(0), spec)
    with pytest.raises(ValueError, match="L0Module in training ran inside a function of make_f"):
        l0.gated(fn, spec).with_buffers(params, gates, buffers, l0.random.key(1), X)
    twin = copy.deepcopy(net).eval()
    other = {path: 2 * p for path, p in params.items()}
    expected = torch.func.functional_call(twin, other, (X,))
    torch.testing.assert_close(fn.eval()(other, buffers, X), expected)
