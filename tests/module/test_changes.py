"""L0Module honours what its owner changes after wrapping, and names what cannot be wrapped."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn

import l0func as l0

X = torch.linspace(-1, 1, 24).reshape(6, 4)


def net(**settings: object) -> l0.L0Module:
    torch.manual_seed(0)
    return l0.L0Module(nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)), 1e-3, seed=0, **settings)


def replace_child(wrapped: l0.L0Module) -> None:
    wrapped.module[1] = nn.Tanh()


def set_attribute(wrapped: l0.L0Module) -> None:
    wrapped.module[1].p = 0.0


def put_hook(wrapped: l0.L0Module) -> None:
    wrapped.module[0].register_forward_hook(lambda module, inputs, output: output * 0)


def change_mode(wrapped: l0.L0Module) -> None:
    wrapped.module[1].eval()


def replace_parameter(wrapped: l0.L0Module) -> None:
    wrapped.module[0].weight = nn.Parameter(torch.zeros(3, 4))


def replace_module(wrapped: l0.L0Module) -> None:
    wrapped.module = nn.Sequential(nn.Linear(4, 3), nn.Identity())


def replace_forward(wrapped: l0.L0Module) -> None:
    wrapped.module[1].forward = lambda x: x + 100


CHANGES = [
    replace_child,
    set_attribute,
    put_hook,
    change_mode,
    replace_parameter,
    replace_module,
    replace_forward,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_steps_has_the_effect_that_it_has_before_the_first(change):
    late, early = net(), net()
    change(early)
    late(X)
    torch.manual_seed(1)
    change(late)
    early.draws = 1
    torch.manual_seed(1)
    change(early)
    before = late.key_of(2)
    assert torch.equal(before, early.key_of(2))
    early.module.load_state_dict(late.module.state_dict())
    assert torch.equal(late(X), early(X))


def test_the_function_is_made_once_while_nothing_changes():
    wrapped = net()
    first = wrapped._live
    for _ in range(3):
        wrapped(X)
        wrapped.eval()(X)
        wrapped.train()
    modes = wrapped._live
    wrapped(X)
    assert wrapped._live is modes
    assert first is not None


def test_frozen_parameters_stay_as_they_are():
    base = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    base[0].requires_grad_(False)
    wrapped = l0.L0Module(
        base, 1e-3, weight_decay=0.1, seed=0, init_params={"*.weight": "ones_", "*": "zeros_"}
    )
    assert torch.equal(wrapped.weights()["0.weight"], base[0].weight)
    assert (wrapped.weights()["1.weight"] == 1).all()
    before = {path: p.detach().clone() for path, p in wrapped.weights().items()}
    gates = {"params": wrapped.gates().values(), "weight_decay": 0.0}
    adam = torch.optim.AdamW([{"params": wrapped.weights().values()}, gates], lr=0.1)
    for _ in range(3):
        adam.zero_grad()
        (wrapped(X).square().mean() + wrapped.regularization()).backward()
        adam.step()
    moved = {path for path, p in wrapped.weights().items() if not torch.equal(p, before[path])}
    assert moved == {"1.weight", "1.bias"}
    named = l0.L0Module(base, 1e-3, seed=0, init_params={"0.weight": "zeros_"})
    assert not named.weights()["0.weight"].any()
    assert not named.weights()["0.weight"].requires_grad


def train(wrapped: l0.L0Module, optimizer: torch.optim.Optimizer) -> None:
    for _ in range(3):
        optimizer.zero_grad()
        (wrapped(X).square().mean() + wrapped.regularization()).backward()
        optimizer.step()


def test_an_optimizer_of_the_copied_module_is_warned_of_once():
    base = nn.Linear(4, 3)
    early = torch.optim.Adam(base.parameters())
    wrapped = l0.L0Module(base, 1e-3, seed=0)
    with pytest.warns(UserWarning, match="This Adam holds 'weight', 'bias' of a module that"):
        train(wrapped, early)
    train(wrapped, early)
    late = torch.optim.SGD([*base.parameters(), *wrapped.gates().values()], lr=0.1)
    with pytest.warns(UserWarning, match="This SGD holds"):
        train(wrapped, late)


def test_other_optimizers_pass_without_a_word():
    base = nn.Linear(4, 3)
    early = torch.optim.Adam(base.parameters())
    base(X).sum().backward()
    wrapped = l0.L0Module(base, 1e-3, seed=0)
    early.step()
    base.zero_grad()
    early.step()
    train(wrapped, torch.optim.Adam(wrapped.parameters()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(wrapped, torch.optim.Adam([*base.parameters(), *wrapped.parameters()]))


def test_the_watch_ends_with_the_modules():
    from torch.optim import Optimizer

    hooks = vars(__import__("sys").modules[Optimizer.__module__])["_global_optimizer_pre_hooks"]
    before = len(hooks)
    base = nn.Linear(4, 3)
    wrapped = l0.L0Module(base, 1e-3, seed=0)
    assert len(hooks) >= max(before, 1)
    del base, wrapped
    assert len(hooks) == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (nn.Linear, r"wraps an instance.*class Linear.*L0Module\(Linear\(...\), lam\)"),
        (l0.make_functional(nn.Linear(2, 2)).fn, "got a pure function from make_functional"),
        (lambda x: x, "wraps an nn.Module; got function"),
        ({"w": torch.zeros(2)}, "wraps an nn.Module; got dict"),
        (None, "wraps an nn.Module; got NoneType"),
    ],
)
def test_what_is_no_module_is_named(given, message):
    with pytest.raises(TypeError, match=message):
        l0.L0Module(given, 1e-3)


def test_a_gated_module_is_not_gated_again():
    with pytest.raises(ValueError, match=r"'0' in it is an L0Module.* inside that, 0.module,"):
        l0.L0Module(nn.Sequential(net(), nn.ReLU()), 1e-3)
    with pytest.raises(ValueError, match=r"it is an L0Module.* its attribute 'module', with"):
        l0.L0Module(net(), 1e-3)


WRONG_NUMBERS = [math.nan, math.inf, -1e-3, torch.tensor(-1.0), torch.tensor([0.1, math.nan, 1.0])]


@pytest.mark.parametrize("name", ["lam", "weight_decay"])
@pytest.mark.parametrize("value", WRONG_NUMBERS)
def test_costs_that_are_no_costs_are_refused_at_construction(name, value):
    settings = {"lam": 1e-3, "weight_decay": 0.0, name: value}
    with pytest.raises(ValueError, match=rf"^{name} is finite and at least 0; got (nan|inf|-)"):
        l0.L0Module(nn.Linear(4, 3), **settings)


@pytest.mark.parametrize("name", ["lam", "weight_decay"])
@pytest.mark.parametrize("value", ["1e-3", None, True, [0.1], 1j])
def test_costs_that_are_no_numbers_are_refused_at_construction(name, value):
    settings = {"lam": 1e-3, "weight_decay": 0.0, name: value}
    with pytest.raises(TypeError, match=rf"^{name} is a number of at least 0, or a tensor; got"):
        l0.L0Module(nn.Linear(4, 3), **settings)


def test_costs_by_pattern_are_checked_by_pattern():
    base = nn.Linear(4, 3)
    with pytest.raises(TypeError, match=r"lam of 'bias' is a number.*got '1'"):
        l0.L0Module(base, {"weight": 1e-3, "bias": "1"})
    with pytest.raises(ValueError, match="Pattern 'wieght' matches no gated parameter"):
        l0.L0Module(base, {"wieght": 1e-3, "*": 1e-3})
    with pytest.raises(ValueError, match=r"lam is a number or broadcasts.*\(2,\) for 'weight'"):
        l0.L0Module(base, {"weight": torch.ones(2), "bias": 0})
    wrapped = l0.L0Module(base, {"weight": torch.ones(3, 1), "*": 0}, torch.tensor(0.1), seed=0)
    assert wrapped.regularization().isfinite()
    wrapped.lam = "a lot"
    with pytest.raises(TypeError, match="got 'a lot'"):
        wrapped.regularization()


def test_any_distribution_is_taken_and_a_conflict_is_named():
    spec = net(distribution=l0.HardKuma()).spec
    assert {type(gate.distribution) for gate in spec.gates} == {l0.HardKuma}
    mixed = net(distribution={"0.weight": l0.BernoulliGate(), "*": l0.HardConcrete(0.5)})
    assert mixed(X).shape == (6, 3)
    assert mixed.spec.gates[1].distribution == l0.HardConcrete(0.5)
    for setting in ("temperature", "limit_a", "limit_b"):
        with pytest.raises(ValueError, match=f"{setting}=1.5 is a setting of the hard concrete"):
            net(distribution=l0.HardKuma(), **{setting: 1.5})
    with pytest.raises(TypeError, match="A distribution is an instance"):
        net(distribution=l0.HardKuma)


def test_local_reparameterisation_draws_as_the_functional_core():
    wrapped = net(sampling="local_reparam", per_example=True)
    fn, params, buffers = l0.make_functional(wrapped.module)
    rows = l0.per_example(l0.gated(fn, wrapped.spec, sampling="local_reparam"))
    keys = l0.random.split(wrapped.key_of(1), len(X))
    assert torch.equal(wrapped(X), rows(params, wrapped.gates(), buffers, keys, X))
    with pytest.raises(ValueError, match=r"no mask that a batch shares\. Set"):
        net(sampling="local_reparam")
    with pytest.raises(ValueError, match=r"sampling is one of.*the closest is 'local_reparam'"):
        net(sampling="local")


@pytest.mark.parametrize("training", [False, True])
def test_a_compacted_module_is_in_the_mode_of_the_wrapped_one_as_to_module_has_it(training):
    wrapped = net().train(training)
    wrapped.module[0].train(not training)
    small = wrapped.compacted(X)
    fn, params, buffers = l0.make_functional(wrapped.module)
    plain = l0.to_module(fn, params, buffers)
    modes = [m.training for m in wrapped.module.modules()]
    assert [m.training for m in small.modules()] == modes
    assert [m.training for m in plain.modules()] == modes
