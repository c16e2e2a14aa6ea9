"""Modules from ``to_module`` are copied, pickled and scripted like their originals."""

from __future__ import annotations

import copy
import io
import pickle
from itertools import product, starmap

import pytest
import torch
from groups import problem, random_gates
from sampled import one_in, sampled
from strangers import STRANGERS
from torch import Tensor, nn
from zoo import CASES

import l0func as l0
from l0func.internal import tree

ALL = [*CASES, *STRANGERS]
# torch itself cannot pickle parametrised modules.
PICKLED = [case for case in ALL if case.name != "weight_norm"]
SCRIPTED = ["mlp", "cnn", "attention", "encoder", "encoder_eval", "padded", "transformer", "lstm"]


def tensors(value) -> list[Tensor]:
    return [leaf for _, leaf in tree.walk(value) if isinstance(leaf, Tensor)]


def made(case) -> list[nn.Module]:
    """A case's module by ``to_module``, whole and compacted."""
    whole = l0.to_module(*l0.make_functional(case.build().eval()))
    found = problem(case, torch.float32)
    if found is None:
        return [whole]
    fn, params, buffers, spec, _ = found
    small = l0.compact(fn, params, random_gates(spec, 0.5), buffers, spec)
    return [whole, l0.to_module(*small).eval()]


def pickled(module: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(module))


def saved(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def reloaded(module: nn.Module) -> nn.Module:
    other = copy.deepcopy(module)
    for p in other.parameters():
        p.data.zero_()
    other.load_state_dict(module.state_dict())
    return other


WAYS = (copy.deepcopy, pickled, saved, reloaded)


@pytest.mark.parametrize(
    ("case", "way"), sampled(starmap(pytest.param, product(PICKLED, WAYS)), one_in(3))
)
def test_a_copy_of_a_made_module_computes_the_same_and_shares_nothing(case, way):
    for module in made(case):
        expected = tensors(module(*case.batch()))
        other = way(module)
        with torch.no_grad():
            for p in module.parameters():
                p.add_(1.0)
        torch.testing.assert_close(tensors(other(*case.batch())), expected)


@pytest.mark.parametrize("case", [c for c in ALL if c.name == "weight_norm"], ids=repr)
def test_a_parametrised_module_is_copied_though_torch_does_not_pickle_it(case):
    for module in made(case):
        expected = tensors(module(*case.batch()))
        torch.testing.assert_close(tensors(copy.deepcopy(module)(*case.batch())), expected)
        with pytest.raises(RuntimeError, match="only supported through state_dict"):
            pickle.dumps(module)


@pytest.mark.skipif(
    not hasattr(torch.compiler, "is_compiling"), reason="torch 2.1 scripts no 'Tensor | None'"
)
@pytest.mark.on_cpu
@pytest.mark.parametrize("case", [c for c in ALL if c.name in SCRIPTED], ids=repr)
@pytest.mark.filterwarnings("ignore")
def test_what_torch_scripts_is_scripted_after_compaction_too(case):
    for module in made(case):
        torch.testing.assert_close(
            tensors(torch.jit.script(module)(*case.batch())), tensors(module(*case.batch()))
        )


def test_a_recurrent_layer_with_unequal_widths_says_what_to_do_instead_of_scripting():
    case = next(case for case in ALL if case.name == "gru")
    with pytest.raises(ValueError, match=r"GRU .* unequal widths; .*torch\.export or torch\.jit"):
        torch.jit.script(made(case)[1])


def test_a_gated_module_says_to_script_what_is_compacted():
    net = l0.L0Module(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), lam=0.1, seed=0).eval()
    with pytest.raises(ValueError, match=r"cannot compile an L0Module.*Script net.compacted\(\)"):
        torch.jit.script(net)
    x = torch.randn(3, 3)
    torch.testing.assert_close(torch.jit.script(net.compacted())(x), net(x))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_copy_trains_on_and_moves_to_another_type(kind):
    module = kind(3, 6, num_layers=2, batch_first=True).eval()
    net = nn.Sequential(First(module), nn.Linear(6, 2))
    x = torch.randn(4, 5, 3)
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, groups=l0.unit_groups(net, x))
    gates = {}
    for i, gate in enumerate(spec.gates):
        gates[gate.name] = torch.where(torch.arange(6) <= i, -9.0, 9.0)
    small = pickled(l0.to_module(*l0.compact(fn, params, gates, buffers, spec)))
    small.train()(x).sum().backward()
    assert all(p.grad is not None for p in small.parameters())
    before = small(x)
    torch.testing.assert_close(copy.deepcopy(small).double()(x.double()).float(), before)


class First(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)[0]
