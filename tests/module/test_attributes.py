"""L0Module: what forward writes on the wrapped module is there afterwards, and is read again."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import l0func as l0


class Leaves(nn.Module):
    """Leaves a loss, a count, a list, a dict and a tuple on itself."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.aux = torch.zeros(())
        self.calls = 0
        self.maps: list[Tensor] = []
        self.kept = {"all": []}
        self.last = None

    def forward(self, x: Tensor) -> Tensor:
        p = self.linear(x).softmax(-1)
        self.aux = p.mean(0).square().sum()
        self.calls += 1
        self.maps.append(p)
        self.kept["all"].append(p.sum())
        self.kept["p"] = p
        self.last = (p, {"p": p})
        return p


class Caches(nn.Module):
    """Keeps a table of positions as long as the longest input, with its length beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("table", None, persistent=False)
        self.cached = 0

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        if n > self.cached:
            self.cached = n
            self.register_buffer("table", torch.arange(n)[:, None].cos(), persistent=False)
        return self.linear(x) * self.table[:n]


class Refers(nn.Module):
    """Points at its own parts, deletes an attribute and makes a new one."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.old = 1

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "old"):
            del self.old
        self.method = self.forward
        self.weight = self.linear.weight
        self.parts = [self.linear]
        return self.linear(x)


class Averages(nn.Module):
    """Keeps a running mean that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.mean = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        self.mean = 0.9 * self.mean + 0.1 * y.detach().mean()
        return y - self.mean


def wrapped(module: nn.Module, **settings: object) -> l0.L0Module:
    return l0.L0Module(nn.Sequential(nn.Linear(4, 4), module), 1e-3, seed=0, **settings)


X = torch.linspace(-1, 1, 20).reshape(5, 4)


def test_a_loss_that_forward_leaves_has_the_value_and_the_gradient_of_this_call():
    net = wrapped(Leaves())
    net(X)
    params = {path: p.detach() for path, p in net.weights().items()}
    masked = l0.apply_masks(params, l0.sample_masks(net.key_of(1), net.gates(), net.spec))
    hidden = X @ masked["0.weight"].T + masked["0.bias"]
    p = (hidden @ masked["1.linear.weight"].T + masked["1.linear.bias"]).softmax(-1)
    torch.testing.assert_close(net.module[1].aux, p.mean(0).square().sum())
    net.module[1].aux.backward()
    assert all(gate.grad is not None for gate in net.gates().values())
    assert net.module[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("per_example", [False, True])
def test_containers_and_counts_grow_as_on_a_plain_module(per_example):
    net = wrapped(Leaves(), per_example=per_example)
    plain = copy.deepcopy(net.module)
    maps = net.module[1].maps
    for _ in range(3):
        net(X)
        plain(X)
    left, right = net.module[1], plain[1]
    assert left.maps is maps
    assert left.calls == right.calls == 3
    assert [p.shape for p in left.maps] == [p.shape for p in right.maps]
    assert len(left.kept["all"]) == len(right.kept["all"]) == 3
    assert left.kept["p"].shape == left.last[0].shape == left.last[1]["p"].shape == (5, 4)


def test_with_a_mask_for_every_row_a_value_is_there_for_every_row():
    net = wrapped(Leaves(), per_example=True)
    y = net(X)
    left = net.module[1]
    torch.testing.assert_close(left.kept["p"], y)
    torch.testing.assert_close(left.aux, y.square().sum(1))
    left.aux.mean().backward()
    assert net.module[0].weight.grad.abs().sum() > 0


def test_a_value_for_every_row_is_not_where_the_next_row_starts():
    net = wrapped(Averages(), per_example=True)
    for _ in range(3):
        y = net(X)
        assert net.module[1].mean.shape == (5,)
        assert y.shape == (5, 4)
    assert net.eval()(X).shape == (5, 4)
    assert net.module[1].mean.shape == ()


def test_state_without_rows_goes_on_from_call_to_call():
    net = wrapped(Averages())
    means = []
    for _ in range(3):
        net(X)
        means.append(net.module[1].mean.item())
    assert len(set(means)) == 3


@pytest.mark.parametrize("per_example", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_cache_grows_together_with_its_length(per_example, training):
    net = l0.L0Module(Caches(), 1e-3, seed=0, per_example=per_example).train(training)
    for n in (3, 5, 2, 7):
        assert net(torch.ones(6, n, 4)).shape == (6, n, 4)
        assert net.module.table.shape == (net.module.cached, 1)
    assert net.module.cached == 7


def test_parts_that_forward_points_at_are_those_of_the_wrapped_module():
    net = wrapped(Refers())
    net(X)
    left = net.module[1]
    assert not hasattr(left, "old")
    assert left.method.__self__ is left
    assert left.weight is left.linear.weight
    assert left.parts[0] is left.linear
    assert net(X).shape == (5, 4)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
@pytest.mark.parametrize("per_example", [False, True])
def test_a_module_with_results_on_it_has_copies(how, per_example):
    net = wrapped(Leaves(), per_example=per_example)
    net(X)
    net.eval()(X)
    net.train()(X)
    again = how(net)
    assert torch.equal(again(X), net(X))
    assert len(again.module[1].maps) == len(net.module[1].maps) == 4


class MakesLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.late = nn.Linear(4, 4), None

    def forward(self, x: Tensor) -> Tensor:
        if self.late is None:
            self.late = nn.LayerNorm(4)
        return self.late(self.linear(x))


class MakesParameter(MakesLayer):
    def forward(self, x: Tensor) -> Tensor:
        if self.late is None:
            self.late = nn.Parameter(torch.ones(4))
        return self.late * self.linear(x)


@pytest.mark.parametrize("kind", [MakesLayer, MakesParameter])
def test_parameters_that_forward_makes_are_refused_by_name(kind):
    with pytest.raises(ValueError, match=r"'1' made parameters in \['late'\].*on an example"):
        wrapped(kind())(X)


def test_a_forward_hook_may_leave_a_value_too():
    net = wrapped(nn.ReLU())
    hook = net.module[1].register_forward_hook(lambda m, i, o: setattr(m, "seen", o))
    y = net(X)
    assert net.module[1].seen is y
    hook.remove()
    net(X)
    assert net.module[1].seen is y


@pytest.mark.parametrize("per_example", [False, True])
def test_the_functional_core_returns_a_loss_that_a_module_around_it_returns(per_example):
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Leaves()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.net(x)
            return y, self.net.aux[None]

    fn, params, buffers = l0.make_functional(WithLoss())
    spec = l0.gate_spec(params)
    gates = l0.init_gates(l0.random.key(0), spec)
    apply, key = l0.gated(fn, spec), l0.random.key(1)
    if per_example:
        apply, key = l0.per_example(apply), l0.random.split(key, 5)
    y, aux = apply(params, gates, buffers, key, X)
    torch.testing.assert_close(
        aux, y.square().sum(1) if per_example else y.mean(0).square().sum()[None]
    )
