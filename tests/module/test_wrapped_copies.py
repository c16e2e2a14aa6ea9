"""L0Module wraps modules that torch does not copy, and has copies of its own."""

from __future__ import annotations

import copy
import io
import pickle
import threading

import pytest
import torch
from device import RELEASE
from torch import Tensor, nn
from torch.nn.utils import prune, spectral_norm, weight_norm

import l0func as l0


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(x[:, None])[0][:, 0])


def old_weight_norm() -> nn.Module:
    return nn.Sequential(weight_norm(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 2))


def old_spectral_norm() -> nn.Module:
    net = nn.Sequential(spectral_norm(nn.Linear(4, 4)), nn.Linear(4, 2))
    net(torch.ones(2, 4))
    return net


def pruned() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    prune.l1_unstructured(net[0], "weight", 0.5)
    prune.random_unstructured(net[2], "bias", 1)
    return net


def recurrent_weight_norm() -> nn.Module:
    net = Recurrent()
    weight_norm(net.lstm, "weight_hh_l0")
    return net


def with_result() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 2))
    net.loss = net[0].weight.sum()
    net.losses = {"all": [net[0].bias.sum()]}
    return net


KINDS = [old_weight_norm, old_spectral_norm, pruned, recurrent_weight_norm, with_result]
OLD = ["ignore:.*weight_norm.*", "ignore:.*spectral_norm.*"]
X = torch.linspace(-1, 1, 20).reshape(5, 4)


def through_file(net: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.filterwarnings(*OLD)
@pytest.mark.parametrize("build", KINDS)
def test_a_module_that_holds_results_is_wrapped_trained_and_copied(build):
    module = build()
    net = l0.L0Module(module, 1e-3, seed=0)
    for path, p in module.named_parameters():
        assert torch.equal(net.weights()[path], p)
        assert net.weights()[path] is not p
    for _ in range(2):
        (net(X).square().mean() + net.regularization()).backward()
    assert all(p.grad is not None for p in net.parameters())
    for how in (copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n)), through_file):
        again = how(net)
        assert torch.equal(again.train()(X), copy.deepcopy(net)(X))
    assert torch.equal(copy.deepcopy(nn.Sequential(net))(X), net(X))


@pytest.mark.filterwarnings(*OLD)
@pytest.mark.parametrize("build", [old_weight_norm, pruned])
def test_gates_reach_the_weights_that_a_hook_computes(build):
    net = l0.L0Module(build(), 1e-3, seed=0).eval()
    with torch.no_grad():
        for name, gate in net.gates().items():
            gate.fill_(-50.0 if name.startswith("0.weight") or name == "0.bias" else 50.0)
    same = net(X)
    assert (same == same[0]).all() or same.isnan().all()


class Locked(nn.Module):
    """Holds a lock and a generator, which have no copies, and tied and frozen parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.generator = threading.Lock(), torch.Generator()
        self.linear = nn.Linear(4, 4)
        self.tied = self.linear
        self.frozen = nn.Linear(4, 2).requires_grad_(False)
        self.norm = nn.BatchNorm1d(4).eval()
        self.register_buffer("shift", torch.ones(4), persistent=False)
        self.linear.register_forward_hook(lambda module, inputs, output: 2 * output)

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            return self.frozen(self.norm(self.tied(self.linear(x))) + self.shift)


def test_what_cannot_be_copied_is_shared_and_everything_else_is_kept():
    module = Locked()
    net = l0.L0Module(module, 1e-3, seed=0)
    for wrapped in (net, copy.deepcopy(net)):
        inner = wrapped.module
        assert inner.lock is module.lock
        assert inner.tied is inner.linear
        assert inner.linear.weight is not module.linear.weight
        assert [p.requires_grad for p in inner.parameters()] == [
            p.requires_grad for p in module.parameters()
        ]
        assert [m.training for m in inner.modules()] == [m.training for m in module.modules()]
        assert list(inner.state_dict()) == list(module.state_dict())
        assert inner.shift is not module.shift
    with torch.no_grad():
        for gate in net.gates().values():
            gate.fill_(50.0)
    net.eval()
    torch.testing.assert_close(net(X), module.eval()(X))
    assert net.module.linear._forward_hooks is not module.linear._forward_hooks


def test_a_copy_draws_for_itself():
    net = l0.L0Module(nn.Linear(4, 2), 1e-3, seed=0)
    net(X)
    twin = copy.deepcopy(net)
    first, second = net(X), net(X)
    assert net.draws == 3
    assert twin.draws == 1
    assert torch.equal(twin(X), first)
    assert torch.equal(twin(X), second)


def test_a_pure_function_of_a_gated_module_leaves_its_count_alone():
    net = l0.L0Module(nn.Linear(4, 2), 1e-3, seed=0)
    fn, params, buffers = l0.make_functional(net)
    with pytest.raises(ValueError, match="would have the same masks in every call"):
        fn(params, buffers, X)
    evaluated = fn.eval()
    assert torch.equal(evaluated(params, buffers, X), net.eval()(X))
    assert net.draws == 0


def compiled(net: nn.Module) -> nn.Module:
    return torch.compile(net, backend="eager")


@pytest.mark.parametrize(
    "wrap",
    [
        compiled,
        lambda net: compiled(nn.Sequential(compiled(net[0]), *net[1:])),
        lambda net: nn.Sequential(net[0], compiled(net[1]), compiled(net[2])),
    ],
)
def test_a_compiled_module_is_wrapped_as_the_eager_one(wrap):
    torch.manual_seed(0)
    eager = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    plain = l0.L0Module(eager, 1e-3, seed=0)
    net = l0.L0Module(wrap(eager), 1e-3, seed=0)
    assert net.spec == plain.spec
    assert torch.equal(net(X), plain(X))
    net(X).sum().backward()
    if RELEASE < (2, 2):
        # The compiler of torch 2.1 takes every hook of an optimizer's step away.
        return
    with pytest.warns(UserWarning, match="holds '0.weight', .* of a module that L0Module copied"):
        torch.optim.SGD(eager.parameters(), lr=0.1).step()
