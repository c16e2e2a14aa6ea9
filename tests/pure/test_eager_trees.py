"""Compiled, scripted and traced modules: run by their eager originals, or refused by type."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from comparing import close, equal
from torch import nn

import l0func as l0

# torch's own code, while it exports.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
X = torch.linspace(-1, 1, 6).reshape(2, 3)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
        self.register_buffer("shift", torch.tensor([0.5, 0.0, 1.0]))

    # Without types: torch cannot pickle the graph of a function whose types are strings.
    def forward(self, x):
        return self.norm(self.fc(x)) * self.scale * self.shift


class Around(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.gain = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.inner(x) * self.gain


def compiled(module: Any) -> Any:
    return torch.compile(module, backend="eager")


def compiled_in_place(module: nn.Module) -> nn.Module:
    module.compile(backend="eager")
    return module


def compiled_twice(module: nn.Module) -> Any:
    return compiled(compiled(module))


def compiled_inside(module: Any) -> nn.Module:
    module.fc = compiled(module.fc)
    return module


def traced(module: nn.Module) -> Any:
    return torch.fx.symbolic_trace(module)


def exported(module: nn.Module) -> Any:
    return torch.export.export(module.eval(), (X,)).module()


def unflattened(module: nn.Module) -> Any:
    return torch.export.unflatten(torch.export.export(module.eval(), (X,)))


COMPILED = [compiled, compiled_in_place, compiled_inside]
GRAPHS = [traced, exported, unflattened]
ways = pytest.mark.parametrize("way", [*COMPILED, compiled_twice, *GRAPHS])
around = pytest.mark.parametrize("around", [lambda m: m, Around], ids=["root", "child"])


def build(way: Callable[[Any], Any], around: Callable[[Any], Any]) -> Any:
    if way in (exported, unflattened) and not hasattr(torch.export, "unflatten"):
        pytest.skip("torch 2.1 exports no modules that can be called like this")
    if around is Around and way is compiled_twice:
        pytest.skip("torch.compile of a wrapper is a function, which is no child")
    torch.manual_seed(0)
    return around(way(Block().eval()))


@ways
@around
def test_the_params_are_read_and_the_paths_are_the_eager_ones(way: Any, around: Any):
    net = build(way, around)
    torch.manual_seed(0)
    eager = around(Block().eval())
    fn, params, buffers = l0.make_functional(net)
    expected = dict(eager.named_parameters())
    assert equal(params, {path: expected[path] for path in params})
    assert len(params) == len(expected)
    close(fn(params, buffers, X), eager(X))
    zero = {path: torch.zeros_like(p) for path, p in params.items()}
    assert not fn(zero, buffers, X).any()
    module = fn.module(zero, buffers)
    assert not module(X).any()
    assert set(module.state_dict()) == {*params, *buffers}


@ways
def test_new_buffers_are_those_of_the_eager_module(way: Any):
    if way in (exported, unflattened):
        pytest.skip("it was exported in eval mode")
    net = build(way, Around)
    eager = Around(Block())
    eager.load_state_dict(
        l0.make_functional(net).fn.module(*l0.make_functional(net)[1:]).state_dict()
    )
    net.train()
    fn, params, buffers = l0.make_functional(net)
    _, updated = fn.with_buffers(params, buffers, X)
    eager(X)
    close(updated, dict(eager.named_buffers()))


def test_a_compiled_modules_own_names_are_understood():
    net = compiled(Block())
    fn, params, buffers = l0.make_functional(net)
    live, own = dict(net.named_parameters()), dict(net.named_buffers())
    assert all(path.startswith("_orig_mod.") for path in live)
    output, updated = fn.with_buffers(live, own, X)
    close(output, fn.with_buffers(params, buffers, X)[0])
    assert set(updated) == set(own)


def test_hooks_on_a_compiled_wrapper_are_refused():
    net = compiled(Block())
    net.register_forward_hook(lambda m, args, y: 2 * y)
    with pytest.raises(ValueError, match=r"wrapper from torch.compile at '' has hooks"):
        l0.make_functional(net)


@pytest.mark.parametrize("way", GRAPHS)
def test_a_graph_of_the_returned_module_is_its_own(way: Any):
    net = build(way, Around)
    fn, params, buffers = l0.make_functional(net)
    before = fn(params, buffers, X)
    module = fn.module(params, buffers)
    close(copy.deepcopy(module)(X) if way is traced else module(X), before)
    if way is traced:
        close(pickle.loads(pickle.dumps(module))(X), before)
        node = next(n for n in module.inner.graph.nodes if n.op == "call_function")
        node.target = torch.add
        module.inner.recompile()
        assert not torch.allclose(module(X), before)
        close(copy.deepcopy(fn)(params, buffers, X), before)
    close(fn(params, buffers, X), before)
    close(net(X), before)


def scripted(module: nn.Module) -> Any:
    return torch.jit.script(module)


def traced_by_jit(module: nn.Module) -> Any:
    return torch.jit.trace(module.eval(), X)


@pytest.mark.parametrize("way", [scripted, traced_by_jit])
def test_torchscript_is_refused_by_type_and_path(way: Any):
    with pytest.raises(TypeError, match=r"eager torch.nn.Module; got .*Module.*to_module"):
        l0.make_functional(way(Block()))
    with pytest.raises(TypeError, match=r"Submodule 'inner' is TorchScript .* of Block\)"):
        l0.make_functional(Around(way(Block())))
    with pytest.raises(TypeError, match=r"Submodule '0.inner' is TorchScript"):
        l0.make_functional(nn.Sequential(Around(way(Block()))))


@pytest.mark.parametrize("way", [scripted, traced_by_jit])
def test_torchscript_that_shares_a_parameter_is_refused_wherever_it_is_held(way: Any):
    net: Any = Around(Block())
    net.tools = [way(net.inner)]
    with pytest.raises(TypeError, match=r"attribute 'tools' of the module, through item 0"):
        l0.make_functional(net)
    net: Any = Around(Block())
    script = way(net.inner)
    net.tool = lambda x: script(x)
    with pytest.raises(TypeError, match=r"attribute 'tool' .* variable 'script', is TorchScript"):
        l0.make_functional(net)
    net: Any = Around(nn.Identity())
    constant = net.gain.data
    net.tool = torch.jit.trace(lambda x: x * constant, X)
    with pytest.raises(TypeError, match=r"attribute 'tool' of the module, is TorchScript"):
        l0.make_functional(net)


def test_torchscript_with_tensors_of_its_own_is_kept():
    net: Any = Around(Block().eval())
    net.tools = [torch.jit.script(nn.Linear(3, 3)), torch.jit.trace(torch.tanh, X)]
    net.inner.forward = net.tools[1]
    fn, params, buffers = l0.make_functional(net)
    close(fn(params, buffers, X), torch.tanh(X))
